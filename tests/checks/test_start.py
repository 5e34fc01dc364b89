"""Lesson 00's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import os
from pathlib import Path

import pytest
import torch

from course_utils import checks

from . import message_for

# Exercise 1.


def turns(order, combine=lambda losses, sizes: sum(losses) / len(losses), first_alone=False):
    def epoch(model, optimizer, loss_fn, batches):
        losses = []
        for x, y in batches:
            for verb in order:
                if verb == "z":
                    optimizer.zero_grad()
                elif verb == "f":
                    loss = loss_fn(model(x), y)
                    losses.append(loss)
                elif verb == "b":
                    loss.backward()
                else:
                    optimizer.step()
            if first_alone:
                break
        return combine([loss.item() for loss in losses], [len(y) for _, y in batches])

    return epoch


def keeps_the_tensor(model, optimizer, loss_fn, batches):
    turns("zfbs")(model, optimizer, loss_fn, batches)
    return torch.tensor(0.5)


def reversed_batches(model, optimizer, loss_fn, batches):
    return turns("zfbs")(model, optimizer, loss_fn, batches[::-1])


WRONG_EPOCHS = {
    "You never clear the gradients": turns("fbs"),
    "between backward() and step()": turns("fbzs"),
    "never call optimizer.step()": turns("zfb"),
    "never call loss.backward()": turns("zfs"),
    "step() before backward()": turns("zfsb"),
    "No weight has moved": turns("f"),
    "two steps for each batch": turns("zfbss"),
    "You train on 1 of 3 batches": turns("zfbs", first_alone=True),
    "once for each batch in order": reversed_batches,
    "returned a tensor": keeps_the_tensor,
    "sum of the losses": turns("zfbs", lambda losses, sizes: sum(losses)),
    "only the last loss": turns("zfbs", lambda losses, sizes: losses[-1]),
    "by the number of rows": turns("zfbs", lambda losses, sizes: sum(losses) / sum(sizes)),
    "losses is": turns("zfbs", lambda losses, sizes: 9.0),
    "returned None": turns("zfbs", lambda losses, sizes: None),
    "before it has a value": turns("zb"),
}


@pytest.mark.parametrize("order", ["zfbs", "fzbs"])
def test_the_right_epoch_passes(order):
    assert checks.train_one_epoch(turns(order)).passed


@pytest.mark.parametrize("words", WRONG_EPOCHS)
def test_a_wrong_epoch_is_explained(words):
    assert words in message_for(checks.train_one_epoch, WRONG_EPOCHS[words])


def test_gradients_that_were_left_behind_must_be_cleared_before_the_first_step():
    assert "gradients left over from before" in message_for(checks.train_one_epoch, turns("fbsz"))


# Exercise 2.

RIGHT = ["gradients", "nothing", "nothing", "gradients", "weights"]
WRONG_CHANGES = {
    "are still there, and zero_grad() removes them": (0, "nothing"),
    "The weights are what has been learned": (0, "weights"),
    "only backward() computes gradients": (1, "gradients"),
    "only a number with a graph": (2, "gradients"),
    "The weights have not moved yet": (3, "weights"),
    "that is why they must be cleared": (4, "gradients"),
    "that is not what changes here. Look at section 3": (1, "weights"),
    "It should return 'nothing', 'gradients' or 'weights'": (2, "loss"),
}


def test_the_right_words_pass():
    assert checks.what_changes(lambda: RIGHT).passed


@pytest.mark.parametrize("words", WRONG_CHANGES)
def test_a_wrong_word_is_explained(words):
    place, word = WRONG_CHANGES[words]
    answer = [*RIGHT[:place], word, *RIGHT[place + 1 :]]
    assert words in message_for(checks.what_changes, lambda: answer)


@pytest.mark.parametrize("answer", [RIGHT[:-1], "weights"])
def test_anything_but_five_words_is_explained(answer):
    assert "Return a list of 5 words" in message_for(checks.what_changes, lambda: answer)


# Exercise 3.


def follow(cwd, path, *, up="..", skip=("", "."), floor=True, rooted=True):
    names = [] if rooted and path.startswith("/") else [name for name in cwd.split("/") if name]
    for name in path.split("/"):
        if name == up or (up == "dots" and name in ("..", "...")):
            if names or not floor:
                names.pop()
        elif name not in skip:
            names.append(name)
    return "/" + "/".join(names)


def two_levels(cwd, path):
    return follow(cwd, path.replace("...", ".."))


WRONG_PATHS = {
    "A plain name leads down": lambda cwd, path: f"/{path}",
    "One dot is the current folder": lambda cwd, path: follow(cwd, path, skip=("",)),
    "Two dots lead up": lambda cwd, path: follow(cwd, path, up="up"),
    "Three dots are a name like any other": two_levels,
    "Empty names": lambda cwd, path: follow(cwd, path, skip=(".",)) if "//" in path else follow(cwd, path),
    "starts at the root": lambda cwd, path: follow(cwd, path, rooted=False),
    "From the root, the answer begins": lambda cwd, path: "/" * (cwd == "/") + follow(cwd, path),
    "stays at `/`": lambda cwd, path: "/logs/.." if path.count("..") == 3 and "..." not in path else follow(cwd, path),
    "IndexError": lambda cwd, path: follow(cwd, path, floor=False),
    "should return the folder as a string": lambda cwd, path: ["course", "data"],
    "returned None": lambda cwd, path: print(end=""),
}


def test_the_right_path_passes():
    assert checks.follow_path(follow).passed
    assert checks.follow_path(lambda cwd, path: Path(follow(cwd, path))).passed


@pytest.mark.parametrize("words", WRONG_PATHS)
def test_a_wrong_path_is_explained(words):
    assert words in message_for(checks.follow_path, WRONG_PATHS[words])


# Exercise 4.


def beside(script, name):
    return Path(script).resolve().parent / name


WRONG_FOLDERS = {
    "where the script was started": lambda script, name: Path.cwd() / name,
    "where the script was started, not": lambda script, name: name,
    "inside the file train.py": lambda script, name: Path(script).resolve() / name,
    "one level too high": lambda script, name: Path(script).resolve().parent.parent / name,
    "right but relative": lambda script, name: Path(script).parent / name,
    "the script's own folder": lambda script, name: Path(script).resolve().parent,
    "yours ends in 'other'": lambda script, name: Path(script).resolve().parent / "other",
    "It should return a path": lambda script, name: 3,
    "returned None": lambda script, name: print(end=""),
}


def test_the_right_folder_passes_also_as_a_string():
    assert checks.beside_script(beside).passed
    assert checks.beside_script(lambda *given: str(beside(*given))).passed


@pytest.mark.parametrize("words", WRONG_FOLDERS)
def test_a_wrong_folder_is_explained(words):
    here = os.getcwd()
    assert words in message_for(checks.beside_script, WRONG_FOLDERS[words])
    assert os.getcwd() == here


@pytest.mark.parametrize("check", ["train_one_epoch", "what_changes", "follow_path", "beside_script"])
def test_a_stub_is_not_attempted(check):
    def stub(*given): ...

    assert "Not attempted yet" in message_for(getattr(checks, check), stub)
