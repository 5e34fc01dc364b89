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
MADE = {
    f"{stem}{theme}.{kind}"
    for stem, kind in (("learning-rate-lab", "gif"), ("learning-rate-lab", "png"), ("doctor-card", "png"))
    for theme in ("", "-dark")
}


def plain(words: str) -> str:
    """What a page shows of an HTML text, but for white space."""
    return "".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", words, flags=re.DOTALL)).split())


def test_the_pictures_are_those_that_the_notes_belong_to():
    assert NOTED["files"].keys() == MADE
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


def scene(x: int) -> Image.Image:
    picture = Image.new("RGB", (60, 40), (250, 251, 252))
    picture.paste((0, 114, 178), (x, 10, x + 12, 30))
    return picture


def test_a_film_shows_each_picture_in_its_own_colors(tmp_path):
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


def test_without_a_browser_nothing_is_made_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr(photograph, "find_browser", lambda: None)
    monkeypatch.setattr(photograph, "make", lambda *_: pytest.fail("it went on without a browser"))
    assert photograph.main() == 1
    assert "no browser on this machine (looked for chromium, " in capsys.readouterr().err
