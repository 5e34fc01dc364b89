"""Drag a lab's slider with the mouse and see the picture follow while the button is held down."""

from notebook_page import LabOnPage

MOVES = 200
# Count the pictures that are drawn after the mouse is released.
COUNT = """lab => {
  window.picturesAfterRelease = 0;
  let released = false;
  document.addEventListener("pointerup", () => { released = true; }, { capture: true, once: true });
  new MutationObserver(() => { if (released) window.picturesAfterRelease += 1; })
    .observe(lab.querySelector(".lab-front"), { childList: true, subtree: true });
}"""


def check_that_the_picture_follows(lab: LabOnPage) -> None:
    """Drag to three places, then back and forth without a rest: no old pictures come after the release.

    How fast the pictures come depends on the machine: tests/benchmarks/bench_latency.py measures that.
    """
    lab.bring_into_view()
    handle, track, mouse = lab.handle.bounding_box(), lab.track.bounding_box(), lab.page.mouse
    height = handle["y"] + handle["height"] / 2
    mouse.move(handle["x"] + handle["width"] / 2, height)
    mouse.down()
    for share in (0.2, 0.8, 0.5):
        shown = lab.shown()
        mouse.move(track["x"] + share * track["width"], height)
        lab.wait_for_another(shown)
    shown = lab.shown()
    lab.root.evaluate(COUNT)
    for index in range(MOVES):
        # Three times along the track and back; the last move ends at another place than all others.
        turn = 6 * (index + 1) / MOVES % 2
        mouse.move(track["x"] + (0.03 + 0.94 * (turn if turn <= 1 else 2 - turn)) * track["width"], height)
    mouse.up()
    lab.wait_for_another(shown)
    lab.notebook.settle()
    # One may be on its way at the release, and so may the answer to the move before it; then comes the last.
    assert lab.page.evaluate("window.picturesAfterRelease") <= 3
    assert lab.errors() == []
