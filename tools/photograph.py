"""Make README's pictures from the running course, and note beside them what they say.

    python tools/photograph.py    all of them, into docs/; takes some minutes and needs Chromium or Chrome

A headless browser opens the course in a JupyterLab of its own. The mouse drags the handle of the learning-rate lab,
which is photographed at each place. Lesson 08 runs from top to bottom, and the loop doctor's first card in it is
photographed. docs/pictures.json notes the words in the pictures; tests/test_photograph.py compares them with the words
of today.
"""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import numpy as np
from headless import BROWSERS, ROOT, find_browser, running_browser, running_server
from notebook_page import LabOnPage, NotebookPage
from PIL import Image, ImageOps
from playwright.sync_api import Page, expect

from course_utils import plots
from course_utils.experiments.recorded_sweeps import RATES

DOCS = ROOT / "docs"
NOTES = DOCS / "pictures.json"
ENDINGS = {"light": "", "dark": "-dark"}
SCALE = 2  # pixels of a picture for one of the page: sharp on a fine screen
MARGIN = 8 * SCALE
LAB = "from course_utils.labs import LearningRateLab\nlab = LearningRateLab()\nlab"
CARD_LESSON = "08_the_whole_loop.ipynb"

# The way of the handle, as places among the 49 rates and milliseconds: from too slow to what works and to what
# diverges, with a rest at each, and faster back, so that the film can go on for ever without a jump.
SLOW, WORKS, DIVERGES = 26, 36, 42
RESTS = {SLOW: 1200, WORKS: 1500, DIVERGES: 1500}
MOVE = 90
WAY = [(place, RESTS.get(place, MOVE)) for place in range(SLOW, DIVERGES + 1)]
WAY += [(place, MOVE) for place in range(DIVERGES - 2, SLOW, -2)]
# Of a GIF's 256 colors one is left for "as before": a frame then holds only what has changed.
COLORS = 255

# A screenshot shows no mouse. This arrow follows the real one.
ARROW = """() => {
  const arrow = document.createElement("div");
  arrow.className = "filmed-mouse";
  arrow.style.cssText = "position: fixed; z-index: 99999; pointer-events: none; width: 18px; height: 24px";
  arrow.innerHTML = '<svg width="18" height="24" viewBox="0 0 18 24"><path d="M1.5 1.5v17l4.3-3.8 2.9 6.9 3-1.3'
    + '-2.9-6.7h5.8z" fill="#000" stroke="#fff" stroke-width="1.5"/></svg>';
  document.body.append(arrow);
  window.followMouse = event => {
    arrow.style.left = event.clientX + "px";
    arrow.style.top = event.clientY + "px";
  };
  document.addEventListener("pointermove", window.followMouse, true);
}"""
NO_ARROW = """() => {
  document.removeEventListener("pointermove", window.followMouse, true);
  document.querySelector(".filmed-mouse").remove();
}"""


@contextlib.contextmanager
def visible_mouse(page: Page) -> Iterator[None]:
    """Let an arrow follow the mouse inside the block."""
    page.evaluate(ARROW)
    try:
        yield
    finally:
        page.evaluate(NO_ARROW)


def film(lab: LabOnPage, places: Sequence[int]) -> tuple[list[Image.Image], list[str]]:
    """Drag the learning-rate lab's handle with the mouse and photograph the lab at each place.

    Args:
        lab: the lab in a running page; it must fit into the window.
        places: where to stop, as indices of the lab's rates.

    Returns:
        For each place a picture and the words below it, both taken when curve and words have followed the hand.
    """
    lab.bring_into_view()
    pictures, words = [], []
    handle, track, mouse = lab.handle.bounding_box(), lab.track.bounding_box(), lab.page.mouse
    height = handle["y"] + handle["height"] / 2
    with visible_mouse(lab.page):
        mouse.move(handle["x"] + handle["width"] / 2, height)
        mouse.down()
        try:
            for place in places:
                mouse.move(track["x"] + place / (len(RATES) - 1) * track["width"], height, steps=2)
                expect(lab.front).to_have_attribute("data-shown", f"{RATES[place]:.4g}")
                expect(lab.root.locator(".lab-words")).to_contain_text(f"rate {plots.rate_text(RATES[place])}:")
                pictures.append(_photograph(lab.root.screenshot()))
                words.append(lab.words())
        finally:
            mouse.up()
    return pictures, words


def _photograph(screenshot: bytes) -> Image.Image:
    """Give a screenshot a margin in the color of its first pixel, the page's own."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    return ImageOps.expand(picture, MARGIN, picture.getpixel((0, 0)))


def with_common_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Reduce pictures of one scene to their most frequent colors, the same ones for all.

    Flat areas keep their color to the last bit, every other pixel takes the nearest one, and nothing flickers from one
    picture to the next: that is what palettes of their own, or dithering, would do.
    """
    pixels = np.concatenate([np.asarray(picture).reshape(-1, 3) for picture in pictures]).astype(np.uint32)
    packed, places, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.int64)
    palette = colors[np.argsort(-counts, kind="stable")[:COLORS]]
    nearest = np.concatenate(
        [((some[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1) for some in np.array_split(colors, 64)]
    ).astype(np.uint8)
    reduced, indices = [], nearest[places]
    for picture in pictures:
        own, indices = np.split(indices, [picture.width * picture.height])
        made = Image.frombytes("P", picture.size, own.tobytes())
        made.putpalette(palette.astype(np.uint8).tobytes())
        reduced.append(made)
    return reduced


def save_film(path: Path, pictures: Sequence[Image.Image], milliseconds: Sequence[int]) -> None:
    """Write an animated GIF that begins again for ever.

    GIF, because GitHub gives it, and no other moving picture, a button to stop it.
    """
    first, *others = with_common_palette(pictures)
    first.save(path, save_all=True, append_images=others, duration=list(milliseconds), loop=0, disposal=1)


def save_still(path: Path, picture: Image.Image) -> None:
    """Write a PNG."""
    with_common_palette([picture])[0].save(path, optimize=True)


def digest(path: Path) -> str:
    """Return the checksum that tells a file from any other."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picture_lab(notebook: NotebookPage, theme: str, folder: Path) -> dict[str, str]:
    """Write the film of the learning-rate lab and its still picture; return the words at each rest, by the rate."""
    places, times = zip(*WAY, strict=True)
    pictures, words = film(notebook.lab("learning-rate-lab"), places)
    stem = f"learning-rate-lab{ENDINGS[theme]}"
    save_film(folder / f"{stem}.gif", pictures, times)
    save_still(folder / f"{stem}.png", pictures[places.index(WORKS)])
    return {plots.rate_text(RATES[place]): words[places.index(place)] for place in RESTS}


def picture_card(notebook: NotebookPage, theme: str, folder: Path) -> str:
    """Write the picture of the first card of the loop doctor on the page; return its words."""
    card = notebook.page.locator(".loop-doctor").first
    card.scroll_into_view_if_needed()
    save_still(folder / f"doctor-card{ENDINGS[theme]}.png", _photograph(card.screenshot()))
    return card.inner_text()


def make(program: str, folder: Path) -> None:
    """Make all pictures in a folder, and the notes beside them.

    Raises:
        RuntimeError: something went wrong on a page; the message says what.
    """
    with tempfile.TemporaryDirectory() as place, running_browser(program) as browser:
        lab = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LAB)])
        lab.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
        nbformat.write(lab, Path(place) / "lab.ipynb")
        # All of them, because the card links to the lessons beside it.
        shutil.copytree(
            ROOT / "notebooks", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
        notes: dict = {}
        with running_server(Path(place)) as server:
            for name, take, what in (("lab.ipynb", picture_lab, "lab"), (CARD_LESSON, picture_card, "card")):
                notebook = NotebookPage(browser, server, name, scale=SCALE)
                try:
                    notebook.run_all()
                    for theme in ENDINGS:
                        notebook.set_theme(theme)
                        words = take(notebook, theme, folder)
                        if notes.setdefault(what, words) != words:
                            raise RuntimeError(f"{name} says other words in the {theme} theme: {words!r}")
                    if notebook.faults:
                        raise RuntimeError(f"{name}: {notebook.faults}")
                finally:
                    notebook.close()
    made = sorted(path for stem in ("learning-rate-lab", "doctor-card") for path in folder.glob(f"{stem}*.*"))
    notes["files"] = {path.name: digest(path) for path in made}
    (folder / NOTES.name).write_text(json.dumps(notes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Make the pictures; return 0, or 1 without a browser."""
    program = find_browser()
    if program is None:
        print(f"no browser on this machine (looked for {', '.join(BROWSERS)}): no picture was made", file=sys.stderr)
        return 1
    make(program, DOCS)
    for name in json.loads(NOTES.read_text(encoding="utf-8"))["files"]:
        print(f"docs/{name}: {(DOCS / name).stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
