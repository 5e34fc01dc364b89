"""All HTML that the course makes out of strings that are not its own, made out of strings that mean harm."""

import runpy
from pathlib import Path

from loop_doctor import LoopDoctor

from course_utils import checks
from course_utils.labs import MachineCard, Prediction, TensorBoardPanel, svg
from course_utils.labs.base import Lab
from course_utils.learner.machine import MachineCheck
from course_utils.learner.record import progress

# Each would set `window.harmed` in a browser that took it for HTML, from text and from inside an attribute.
SCRIPT = "<script>harmed = 'script'</script>"
IMAGE = "<img src=x onerror=\"harmed = 'image'\">"
QUOTES = "\" onmouseover=\"harmed = 'quotes'\" style=\"position: fixed; inset: 0\" '><svg onload='harmed = 1'>`"
HARM = (SCRIPT, IMAGE, QUOTES)
# A loop with mistakes of all kinds whose names, tags and source lines are harm. It has no zero_grad(), sums its loss
# for ever, keeps it as a tensor, leaves the writer open, and forgets a part of the model.
LOOP = """\
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

Model = type({script!r}, (nn.Sequential,), {{}})
Optimizer = type({image!r}, (torch.optim.SGD,), {{}})
torch.manual_seed(0)
model = Model()
model.add_module({image!r}, nn.Linear(2, 4))
model.add_module({quotes!r}, nn.Linear(4, 1))
optimizer = Optimizer(model[0].parameters(), lr=0.01)
writer = SummaryWriter({folder!r})
x, y = torch.randn(64, 2), torch.randn(64, 1)
total = 0.0
for step in range(8):  # {script}
    loss = nn.functional.mse_loss(model(x), y)  # {image}
    loss.backward()  # {quotes}
    optimizer.step()  # {script}
    total += loss.item()
    for tag in ({script!r}, {image!r}, {quotes!r}):
        writer.add_scalar(tag, total, step)  # {image}
"""


def doctor_card(folder: Path) -> str:
    """The doctor's card on the loop above, in a file with a name that is harm too."""
    script = folder / f"{IMAGE.replace('/', '')}.py"
    lines = LOOP.format(script=SCRIPT, image=IMAGE, quotes=QUOTES, folder=str(folder / "runs"))
    script.write_text(lines, encoding="utf-8")
    with LoopDoctor() as doctor:
        runpy.run_path(str(script))
    return doctor._repr_html_()


def labs(folder: Path) -> dict[str, str]:
    """What labs show of a learner's names, words and errors."""

    class Words(Lab):
        def __init__(self):
            super().__init__([], controls={}, css_class="words-lab", buttons=())

    made = [
        Words(),
        Prediction("02-harm", " ".join(HARM), [*HARM, "none"]),
        MachineCard([MachineCheck(name, False, found, advice) for name, found, advice in (HARM, HARM[::-1])]),
        TensorBoardPanel(folder / "a file" / IMAGE.replace("/", "")),
    ]
    words, prediction, _, panel = made
    words.show_error(ValueError(" ".join(HARM)))
    prediction.choice.value = QUOTES
    panel.settle(60)
    panel.server.note = QUOTES
    panel._start(lambda: False)
    shown = {type(lab).__name__: "".join(_html_of(lab)) for lab in made}
    for harm in HARM:
        words.show_progress(0.5, harm)
        shown["Words, " + harm] = words._status.value
    for lab in made:
        lab.close()
    return shown


def _html_of(widget) -> list[str]:
    parts = [widget.value] if type(widget).__name__ == "HTML" else []
    return parts + [part for child in getattr(widget, "children", ()) for part in _html_of(child)]


def pages(folder: Path) -> dict[str, str]:
    """All of it, by what made it.

    $COURSE_LEARNER_DIR must name a folder, with harm for a name, below `folder / "a file"`: there nothing can be
    written, and the learner sees the folder's name.
    """
    (folder / "a file").touch()
    progress().solve("02-descend", True)
    return {
        "doctor": doctor_card(folder),
        "report": checks.report("02")._repr_html_(),
        "svg": svg.picture(20, svg.text(0, 0, " ".join(HARM)), alt=QUOTES, data_shown=QUOTES),
        **labs(folder),
    }
