"""The exercises of lesson 00: one turn of the loop, and where a path leads."""

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
from course_utils.checks.values import Wrong, choice, number, short, tell

Batches = Sequence[tuple[Tensor, Tensor]]


class _Noted(torch.optim.SGD):
    """Plain SGD that notes, in one letter each, what it and its model are asked to do.

    z: zero_grad, f: forward, b: backward, s: step.
    """

    def __init__(self, model: nn.Linear):
        super().__init__(model.parameters(), lr=0.5)
        self.asked = ""
        model.register_forward_hook(lambda *_: self._note("f"))
        model.weight.register_post_accumulate_grad_hook(lambda _: self._note("b"))
        self.register_step_pre_hook(lambda *_: self._note("s"))

    def _note(self, letter: str) -> None:
        self.asked += letter

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._note("z")
        super().zero_grad(set_to_none)


def _epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: nn.Module, batches: Batches) -> list[float]:
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _misconception(asked: str, num_batches: int) -> str:
    """Say what is wrong with an epoch whose weights are not the right ones, by the order of its verbs."""
    if "b" not in asked and "s" not in asked:
        return "No weight has moved: after the loss come backward() and step()."
    if "b" not in asked:
        return "You never call loss.backward(): the step has no gradients of this batch to go by."
    if "s" not in asked:
        return "You never call optimizer.step(): the gradients are there, and no weight moves."
    if "z" not in asked:
        return "You never clear the gradients: each step uses the sum of all batches. Call optimizer.zero_grad()."
    if "bzs" in asked:
        return (
            "You clear the gradients between backward() and step(): the step finds nothing to use. Clear them before "
            "backward(), or after step()."
        )
    if "fs" in asked:
        return "You call step() before backward(): the step does not know the gradients of its own batch."
    if "ss" in asked:
        return "You take two steps for each batch."
    if asked.count("b") < num_batches:
        return f"You train on {asked.count('b')} of {num_batches} batches: does the return stand inside the loop?"
    if asked.startswith("fbs"):
        return (
            "Your first step used gradients that somebody had left behind. Clear them before the first backward(), not "
            "only after the step."
        )
    return "Your weights are not those of zero_grad, forward, loss, backward, step, once for each batch in order."


@exercise(
    "00-train-one-epoch",
    "Write one epoch",
    praise="Five verbs in order: your weights and PyTorch's are the same to the last bit.",
    may_change=(0, 1),
)
def train_one_epoch(answer: Answer) -> None:
    """Check exercise 1 of lesson 00: an epoch of training, against the same five verbs in the right order."""
    for sizes in ((6, 6, 4), (5, 3)):
        model, loss_fn = nn.Linear(3, 2), nn.CrossEntropyLoss()
        batches = [(torch.randn(rows, 3), torch.randint(2, (rows,))) for rows in sizes]
        loss_fn(model(batches[0][0]), batches[0][1]).backward()  # gradients that somebody left behind
        oracle = copy.deepcopy(model)
        losses = _epoch(oracle, torch.optim.SGD(oracle.parameters(), lr=0.5), loss_fn, batches)
        optimizer = _Noted(model)
        given = answer(model, optimizer, loss_fn, batches)
        if not _alike(model, oracle):
            raise Wrong(_misconception(optimizer.asked, len(batches)))
        if isinstance(given, Tensor):
            raise Wrong("Your function gave back a tensor. Add up loss.item(), which is a plain number.")
        tell(
            number(given),
            sum(losses) / len(losses),
            [
                (sum(losses), "That is the sum of the losses. Divide it by the number of batches."),
                (losses[-1], "That is the last loss alone. Add up the losses of all batches."),
                (
                    sum(losses) / sum(sizes),
                    "You divide by the number of rows. You added one loss a batch: divide by those.",
                ),
            ],
            f"The mean of the {len(losses)} losses is {sum(losses) / len(losses):.4f}; yours is {short(given)}.",
            rel_tol=1e-5,
        )


def _alike(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


VERBS = (
    "optimizer.zero_grad()",
    "logits = model(x)",
    "loss = loss_fn(logits, y)",
    "loss.backward()",
    "optimizer.step()",
)
MISTAKEN = {
    (0, "nothing"): "gradients of the step before are still there, and zero_grad() takes them away.",
    (0, "weights"): "zero_grad() clears the gradients. The weights are what was learned: they stay.",
    (1, "gradients"): "the forward pass writes down how it computed, but gradients come with backward() alone.",
    (2, "gradients"): "the loss is only a number with a graph. Gradients come with backward().",
    (3, "weights"): "backward() says in which direction to go. Nobody has gone yet.",
    (4, "gradients"): "step() reads the gradients and leaves them as they are; that is why they must be cleared.",
}


@exercise(
    "00-what-changes",
    "Predict what each verb changes",
    praise="That is what a turn of the loop has just done, verb by verb.",
)
def what_changes(answer: Answer) -> None:
    """Check exercise 2 of lesson 00: what each of the five verbs changes, against a turn that is run."""
    given = answer()
    if not isinstance(given, list | tuple) or len(given) != len(VERBS):
        raise Wrong(f"Return a list of {len(VERBS)} words, one for each verb; yours is {short(given)}.")
    for place, (word, right) in enumerate(zip(given, _changes(), strict=True)):
        if choice(word, ["nothing", "gradients", "weights"]) != right:
            why = MISTAKEN.get((place, word), f"it does not change {word!r}. Look at section 3.")
            raise Wrong(f"{VERBS[place]}: {why}")


def _changes() -> list[str]:
    """Run the second turn of a loop and note after each verb what is another than before."""
    model, loss_fn = nn.Linear(3, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    _epoch(model, optimizer, loss_fn, [(x, y)])
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "loss_fn": loss_fn, "x": x, "y": y}
    found = []
    for verb in VERBS:
        before, gradients = copy.deepcopy(model), _gradients(model)
        exec(verb, names)  # noqa: S102  one of the five verbs above
        same = all(torch.equal(a, b) for a, b in zip(gradients, _gradients(model), strict=True))
        found.append("weights" if not _alike(model, before) else "nothing" if same else "gradients")
    return found


def _gradients(model: nn.Module) -> list[Tensor]:
    """A copy of the gradients, one of no numbers where there is none."""
    return [torch.empty(0) if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


@exercise(
    "00-follow-path",
    "Follow a path",
    praise="Name by name, as the operating system does it.",
)
def follow_path(answer: Answer) -> None:
    """Check exercise 3 of lesson 00: where a path leads from a folder, against `posixpath.normpath`."""
    cases = [
        ("/course/notebooks", "data", "A plain name leads down into the folder where you are."),
        ("/course/notebooks", "./data", "One dot is the folder where you are: it leads nowhere else."),
        ("/course/notebooks", "..", "Two dots lead up, to the parent folder."),
        ("/course/notebooks", "../../logs", "Each pair of dots leads up once; the rest leads down from there."),
        ("/course/notebooks", ".../.../logs", "Three dots are a name like any other: a folder that is called `...`."),
        ("/course", "../../../logs", "Above the root there is nothing: `..` at `/` stays at `/`."),
        ("/course/notebooks", "runs//a/", "Empty names, from a double slash or one at the end, lead nowhere."),
        ("/course/notebooks", "runs/../data", "Dots may come later in a path as well: down, up, and down again."),
        ("/course/notebooks", "/data", "A path that begins with / starts at the root, wherever you are."),
        ("/", "data", "From the root the answer begins with one slash."),
    ]
    for cwd, path, why in cases:
        right = posixpath.normpath(posixpath.join(cwd, path))
        given = answer(cwd, path)
        if isinstance(given, Path):
            given = given.as_posix()
        if not isinstance(given, str):
            raise Wrong(f"Your function gave {short(given)}. It should give the folder as a string.")
        if given != right:
            raise Wrong(f"From {cwd!r}, {path!r} leads to {right!r}; you say {short(given)}. {why}")


@exercise(
    "00-beside-script",
    "A folder that stays with its script",
    praise="Wherever the script is started, its runs lie beside it.",
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
                    raise Wrong(f"Your function gave {short(given)}. It should give a path.")
                absolute = Path(given).is_absolute()
                where = Path(given).resolve()
            right = project / "scripts" / "runs"
            said = f"{script!r}, started in {start!r}"
            if where == right and absolute:
                continue
            if where == project / start / "runs":
                raise Wrong(f"For {said}, your folder lies where the script was started, and not beside the script.")
            if where == project / "scripts" / "train.py" / "runs":
                raise Wrong("Your folder lies inside the file train.py. Go to its .parent first.")
            if where == project / "runs":
                raise Wrong(f"For {said}, your folder lies one level too high: .parent once, not twice.")
            if where == right:
                raise Wrong(
                    "Your path is right and relative: it leads elsewhere as soon as the working directory changes. "
                    "Make it absolute with .resolve()."
                )
            if where == right.parent:
                raise Wrong("That is the script's own folder. Put the name below it: folder / name.")
            raise Wrong(f"For {said}, the folder should be scripts/runs in the project; yours ends in {where.name!r}.")
