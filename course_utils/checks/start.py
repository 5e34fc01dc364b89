"""Lesson 00's checks: one turn of the loop, and where a path leads."""

import contextlib
import copy
import posixpath
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, choice, compare, number, short

Batches = Sequence[tuple[Tensor, Tensor]]


class _RecordingSGD(torch.optim.SGD):
    """Plain SGD that records, as one letter each, the calls to itself and to its model.

    z: zero_grad, f: forward, b: backward, s: step.
    """

    def __init__(self, model: nn.Linear):
        super().__init__(model.parameters(), lr=0.5)
        self.calls = ""
        model.register_forward_hook(lambda *_: self._record("f"))
        model.weight.register_post_accumulate_grad_hook(lambda _: self._record("b"))
        self.register_step_pre_hook(lambda *_: self._record("s"))

    def _record(self, letter: str) -> None:
        self.calls += letter

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._record("z")
        super().zero_grad(set_to_none)


def reference_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: nn.Module, batches: Batches
) -> list[float]:
    """Train on each batch once and return the losses."""
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _misconception(calls: str, num_batches: int) -> str:
    """Return what is wrong with an epoch that ends with the wrong weights, judging by the order of its calls."""
    if "b" not in calls and "s" not in calls:
        return "No weight has moved: after the loss come backward() and step()."
    if "b" not in calls:
        return "You never call loss.backward(): so the step has no gradients of this batch to use."
    if "s" not in calls:
        return "You never call optimizer.step(): so the gradients are computed, but no weight moves."
    if "z" not in calls:
        return "You never clear the gradients: each step uses the sum of all batches. Call optimizer.zero_grad()."
    if "bzs" in calls:
        return (
            "You clear the gradients between backward() and step(): so the step finds nothing to use. Clear them "
            "before backward(), or after step()."
        )
    if "fs" in calls:
        return "You call step() before backward(): so the step does not know the gradients of its own batch."
    if "ss" in calls:
        return "You take two steps for each batch."
    if calls.count("b") < num_batches:
        return f"You train on {calls.count('b')} of {num_batches} batches: is the return inside the loop?"
    if calls.startswith("fbs"):
        return (
            "Your first step used gradients left over from before. Clear them before the first backward(), "
            "not only after the step."
        )
    return (
        "Your weights are not those that zero_grad, forward, loss, backward and step lead to, once "
        "for each batch in order."
    )


@exercise(
    "00-train-one-epoch",
    "Write one epoch",
    praise="Five verbs in order: your weights and PyTorch's are the same to the last bit.",
    may_change=(0, 1),
)
def train_one_epoch(answer: Answer) -> None:
    """Check exercise 1 of lesson 00: an epoch of training, compared with the same five verbs in the right order."""
    for sizes in ((6, 6, 4), (5, 3)):
        model, loss_fn = nn.Linear(3, 2), nn.CrossEntropyLoss()
        batches = [(torch.randn(rows, 3), torch.randint(2, (rows,))) for rows in sizes]
        loss_fn(model(batches[0][0]), batches[0][1]).backward()  # gradients left over from before
        oracle = copy.deepcopy(model)
        losses = reference_epoch(oracle, torch.optim.SGD(oracle.parameters(), lr=0.5), loss_fn, batches)
        optimizer = _RecordingSGD(model)
        given = answer(model, optimizer, loss_fn, batches)
        if not _same_weights(model, oracle):
            raise Wrong(_misconception(optimizer.calls, len(batches)))
        if isinstance(given, Tensor):
            raise Wrong("Your function returned a tensor. Add up loss.item(), which is a plain number.")
        compare(
            number(given),
            sum(losses) / len(losses),
            [
                (sum(losses), "That is the sum of the losses. Divide it by the number of batches."),
                (losses[-1], "That is only the last loss. Add up the losses of all batches."),
                (
                    sum(losses) / sum(sizes),
                    "You divide by the number of rows. You added one loss per batch, so divide "
                    "by the number of batches.",
                ),
            ],
            f"The mean of the {len(losses)} losses is {sum(losses) / len(losses):.4f}; yours is {short(given)}.",
            rel_tol=1e-5,
        )


def _same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


VERBS = (
    "optimizer.zero_grad()",
    "logits = model(x)",
    "loss = loss_fn(logits, y)",
    "loss.backward()",
    "optimizer.step()",
)
MISCONCEPTIONS = {
    (0, "nothing"): "the gradients of the previous step are still there, and zero_grad() removes them.",
    (0, "weights"): "zero_grad() clears the gradients. The weights are what has been learned: they stay.",
    (1, "gradients"): "the forward pass records its operations, but only backward() computes gradients.",
    (2, "gradients"): "the loss is only a number with a graph. backward() computes the gradients.",
    (3, "weights"): "backward() only finds the direction. The weights have not moved yet.",
    (4, "gradients"): "step() reads the gradients and leaves them as they are; that is why they must be cleared.",
}


@exercise(
    "00-what-changes",
    "Predict what each verb changes",
    praise="A turn of the loop has just done exactly that, verb by verb.",
)
def what_changes(answer: Answer) -> None:
    """Check exercise 2 of lesson 00: what each of the five verbs changes, compared with a real turn of the loop."""
    given = answer()
    if not isinstance(given, list | tuple) or len(given) != len(VERBS):
        raise Wrong(f"Return a list of {len(VERBS)} words, one for each verb; yours is {short(given)}.")
    for place, (word, right) in enumerate(zip(given, _changes(), strict=True)):
        if choice(word, ["nothing", "gradients", "weights"]) != right:
            why = MISCONCEPTIONS.get((place, word), "that is not what changes here. Look at section 3.")
            raise Wrong(f"{VERBS[place]}: {why}")


def _changes() -> list[str]:
    """Run the second turn of a loop and return what each verb changed."""
    model, loss_fn = nn.Linear(3, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    reference_epoch(model, optimizer, loss_fn, [(x, y)])
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "loss_fn": loss_fn, "x": x, "y": y}
    found = []
    for verb in VERBS:
        before, gradients = copy.deepcopy(model), _gradients(model)
        exec(verb, names)  # noqa: S102  one of the five verbs above
        same = all(torch.equal(a, b) for a, b in zip(gradients, _gradients(model), strict=True))
        found.append("weights" if not _same_weights(model, before) else "nothing" if same else "gradients")
    return found


def _gradients(model: nn.Module) -> list[Tensor]:
    """Return a copy of each gradient; an empty tensor if there is none."""
    return [torch.empty(0) if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


@exercise(
    "00-follow-path",
    "Follow a path",
    praise="Name by name, as the operating system does it.",
)
def follow_path(answer: Answer) -> None:
    """Check exercise 3 of lesson 00: where a path leads from a folder, compared with `posixpath.normpath`."""
    cases = [
        ("/course/notebooks", "data", "A plain name leads down, into a folder inside the current one."),
        ("/course/notebooks", "./data", "One dot is the current folder: it leads nowhere else."),
        ("/course/notebooks", "..", "Two dots lead up, to the parent folder."),
        ("/course/notebooks", "../../logs", "Each pair of dots leads up one level; the rest leads down from there."),
        ("/course/notebooks", ".../.../logs", "Three dots are a name like any other: a folder called `...`."),
        ("/course", "../../../logs", "There is nothing above the root: `..` at `/` stays at `/`."),
        ("/course/notebooks", "runs//a/", "Empty names, from a double slash or one at the end, lead nowhere."),
        ("/course/notebooks", "runs/../data", "Dots may come later in a path as well: down, up, and down again."),
        ("/course/notebooks", "/data", "A path that begins with / starts at the root, whatever the current folder is."),
        ("/", "data", "From the root, the answer begins with one slash."),
    ]
    for cwd, path, why in cases:
        right = posixpath.normpath(posixpath.join(cwd, path))
        given = answer(cwd, path)
        if isinstance(given, Path):
            given = given.as_posix()
        if not isinstance(given, str):
            raise Wrong(f"Your function returned {short(given)}. It should return the folder as a string.")
        if given != right:
            raise Wrong(f"From {cwd!r}, {path!r} leads to {right!r}; yours is {short(given)}. {why}")


@exercise(
    "00-beside-script",
    "A folder that stays with its script",
    praise="Wherever the script is started, its runs are saved beside it.",
)
def beside_script(answer: Answer) -> None:
    """Check exercise 4 of lesson 00: a folder beside a script, whatever the working directory is."""
    with tempfile.TemporaryDirectory() as made:
        project = Path(made).resolve()
        (project / "scripts").mkdir()
        (project / "elsewhere").mkdir()
        for start, script in (("elsewhere", "../scripts/train.py"), (".", "scripts/train.py"), ("scripts", "train.py")):
            with contextlib.chdir(project / start):
                given = answer(script, "runs")
                if not isinstance(given, str | Path):
                    raise Wrong(f"Your function returned {short(given)}. It should return a path.")
                absolute = Path(given).is_absolute()
                where = Path(given).resolve()
            right = project / "scripts" / "runs"
            case = f"{script!r}, started in {start!r}"
            if where == right and absolute:
                continue
            if where == project / start / "runs":
                raise Wrong(f"For {case}, your folder is where the script was started, not beside the script.")
            if where == project / "scripts" / "train.py" / "runs":
                raise Wrong("Your folder is inside the file train.py. Go to its .parent first.")
            if where == project / "runs":
                raise Wrong(f"For {case}, your folder is one level too high: use .parent once, not twice.")
            if where == right:
                raise Wrong(
                    "Your path is right but relative: it leads elsewhere as soon as the working directory changes. "
                    "Make it absolute with .resolve()."
                )
            if where == right.parent:
                raise Wrong("That is the script's own folder. Add the name to it: folder / name.")
            raise Wrong(f"For {case}, the folder should be scripts/runs in the project; yours ends in {where.name!r}.")
