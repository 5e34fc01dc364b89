"""Compare the pictures of a fresh run with the stored ones, which nbval does not do."""

import numpy as np
from nbformat import NotebookNode

from notebooks import picture, picture_problems

# Ink that moved, as a share of all ink, after a blur of 16 pixels. A curve redrawn with 1 % noise moves 0.02 of it,
# 3 % noise 0.05; another seed 0.18, a curve that falls half as fast 0.36, an empty plot 0.5.
MOVED_INK = 0.1
BLUR = 16
VARYING_PICTURE = "varying-picture"


def picture_changes(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """List the pictures of a fresh run that are missing, faulty, or do not look like the stored ones.

    A cell tagged `varying-picture` shows times, or a run in which a rounding error grows until it is seen: its pictures
    must be there and need not look alike.
    """
    found = []
    for index, (before, after) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if after.cell_type != "code":
            continue
        found += [f"cell {index}: {sentence}" for sentence in picture_problems(after)]
        old, new = _pictures(before), _pictures(after)
        if len(old) != len(new):
            found.append(f"cell {index}: {len(old)} pictures are stored and a fresh run shows {len(new)}")
        elif VARYING_PICTURE not in after.metadata.get("tags", []):
            moved = [moved_ink(picture(a), picture(b)) for a, b in zip(old, new, strict=True)]
            found += [
                f"cell {index}: a fresh run draws another picture than the stored one (moved ink: {share:.2f})"
                for share in moved
                if share > MOVED_INK
            ]
    return found


def moved_ink(a: np.ndarray, b: np.ndarray) -> float:
    """Tell how unlike two pictures are: 0 for the same ink in the same places, 1 for none in common.

    Ink is the distance from the color of the top left pixel. Pictures of unlike sizes have nothing in common;
    a few pixels more or less come from other fonts and are cut off.
    """
    if max(abs(a.shape[0] - b.shape[0]), abs(a.shape[1] - b.shape[1])) > BLUR:
        return 1.0
    rows, columns = (min(a.shape[axis], b.shape[axis]) // BLUR for axis in (0, 1))

    def ink(pixels: np.ndarray) -> np.ndarray:
        colors = pixels[: rows * BLUR, : columns * BLUR, :3]
        distance = np.abs(colors - pixels[0, 0, :3]).mean(axis=2)
        return distance.reshape(rows, BLUR, columns, BLUR).mean(axis=(1, 3))

    ink_a, ink_b = ink(a), ink(b)
    total = (ink_a + ink_b).sum()
    return float(np.abs(ink_a - ink_b).sum() / total) if total else 0.0


def _pictures(cell: NotebookNode) -> list[str]:
    return [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
