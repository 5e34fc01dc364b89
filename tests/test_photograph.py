"""README's pictures: made by `make pictures`, small, steady, and the card still says what the doctor says today.

That the lab still says what it says in the film is held where a lab is at hand, in tests/labs/test_learning_rate.py.
"""

import html
import json
import re

import nbformat
import numpy as np
import photograph
import pytest
from PIL import Image, ImageSequence

NOTED = json.loads(photograph.NOTES.read_text(encoding="utf-8"))
FILMS = ["learning-rate-lab.gif", "learning-rate-lab-dark.gif"]
STILLS = ["learning-rate-lab.png", "learning-rate-lab-dark.png", "doctor-card.png", "doctor-card-dark.png"]


def plain(words: str) -> str:
    """What a page shows of an HTML text, but for white space."""
    return "".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", words, flags=re.DOTALL)).split())


def test_the_pictures_are_those_that_the_notes_belong_to():
    assert NOTED["files"].keys() == {*FILMS, *STILLS}
    changed = [name for name, digest in NOTED["files"].items() if photograph.digest(photograph.DOCS / name) != digest]
    assert changed == [], "made by hand, or only in part: run `make pictures`"


def test_the_card_still_says_what_it_says_in_the_picture():
    """The stored card, that is: nbval holds the lesson to it in each run of the tests."""
    lesson = nbformat.read(photograph.ROOT / "notebooks" / photograph.CARD_LESSON, as_version=4)
    cards = [
        words
        for cell in lesson.cells
        for output in cell.get("outputs", [])
        if "loop-doctor" in (words := output.get("data", {}).get("text/html", ""))
    ]
    assert plain(cards[0]) == "".join(NOTED["card"].split()), "run `make pictures`"


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_small_goes_on_for_ever_and_does_not_flicker(name):
    path = photograph.DOCS / name
    assert path.stat().st_size < 1_500_000
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        times, frames = [], []
        for frame in ImageSequence.Iterator(film):
            times.append(frame.info["duration"])
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
    assert times == [time for _, time in photograph.WAY]
    # From one frame to the next, and from the last to the first, little changes, and that with a jump: no haze.
    for before, after in zip(frames, frames[1:] + frames[:1], strict=True):
        change = np.abs(after - before).max(axis=2)
        assert 0.0005 < (change > 0).mean() < 0.06
        assert (change[change > 0] > 12).mean() > 0.9
    corners = {tuple(frame[row, column]) for frame in frames for row in (0, -1) for column in (0, -1)}
    assert len(corners) == 1


@pytest.mark.parametrize("name", STILLS)
def test_a_still_picture_is_small_and_sharp(name):
    path = photograph.DOCS / name
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.width > 1500
        light = picture.convert("L").getpixel((0, 0)) > 127
    assert light == ("dark" not in name)


def scene(x: int) -> Image.Image:
    picture = Image.new("RGB", (60, 40), (250, 251, 252))
    picture.paste((0, 114, 178), (x, 10, x + 12, 30))
    return picture


def test_a_film_shows_each_picture_in_its_own_colours(tmp_path):
    shown = [scene(x) for x in (0, 20, 40, 20)]
    photograph.save_film(tmp_path / "film.gif", shown, [300, 90, 300, 90])
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["loop"] == 0
        frames = list(ImageSequence.Iterator(film))
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(film)] == [300, 90, 300, 90]
        for number, expected in enumerate(shown):
            film.seek(number)
            assert np.array_equal(np.asarray(film.convert("RGB")), np.asarray(expected))
    assert len(frames) == 4


def test_rare_colours_take_the_nearest_frequent_one():
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    picture = Image.new("RGB", (200, 200), (17, 17, 17))
    picture.paste(Image.fromarray(noise), (100, 100))
    (reduced,) = photograph.with_common_palette([picture])
    colours = reduced.convert("RGB").getcolors(40_000)
    assert len(colours) <= photograph.COLOURS
    assert max(colours)[1] == (17, 17, 17)


def test_without_a_browser_nothing_is_made_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr(photograph, "find_browser", lambda: None)
    monkeypatch.setattr(photograph, "make", lambda *_: pytest.fail("it went on without a browser"))
    assert photograph.main() == 1
    assert "no browser on this machine (looked for chromium, " in capsys.readouterr().err
