"""The state of a run: its weights by name, and which parts it must have, of which kinds, to be restored."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.errors import quoted
from course_utils.training.history import FIGURES

State = Mapping[str, Any]


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return the weights and buffers of a model by name; a compiled model has the names of the original."""
    return {original_name(name): value for name, value in model.state_dict().items()}


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `model_state` returned, compiled or not, into a model that is compiled or not.

    Raises:
        RuntimeError: names or shapes differ; `comparison.check_same_model` finds this before anything is changed.
    """
    names = {original_name(name): name for name in model.state_dict()}
    model.load_state_dict({names.get(name, name): value for name, value in state.items()})


def original_name(name: str) -> str:
    """Return the name that a weight has without `torch.compile`, which puts `_orig_mod` before the names it covers."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def check_state(state: object) -> None:
    """Check that a state has every part of a run, each of the right kind.

    Raises:
        ValueError: parts are missing or of another kind; the message names them.
    """
    faults = []
    for where, (kind, is_right) in PARTS.items():
        part: Any = state
        for key in where.split("."):
            part = part.get(key, MISSING) if isinstance(part, Mapping) else MISSING
        if part is MISSING:
            faults += [] if where in OPTIONAL else [f"{where} is missing"]
        elif not is_right(part):
            faults.append(f"{where} must be {kind}, is {quoted(part)}")
    if faults:
        raise ValueError(f"a run cannot continue from this state: {listed(faults)}")


def check_fits(saved: State, mine: State) -> None:
    """Check that the parts of a state, after `check_state`, are like those of the run that continues from it.

    The model is left to `comparison.check_same_model`, the optimizer's buffers to `check_buffers`.

    Args:
        mine: the state of this run.

    Raises:
        ValueError: parts are missing or of another kind; the message names them.
    """
    faults: list[str] = []
    # PyTorch itself compares the number of groups, before it changes anything.
    groups = zip(saved["optimizer"]["param_groups"], mine["optimizer"]["param_groups"], strict=False)
    for index, (group, own) in enumerate(groups):
        faults += unlike(group, own, f"optimizer.param_groups[{index}]")
    kept = ["scheduler", "scaler"] if saved["plan"] is None else ["scheduler", "scaler", "loss_fn"]  # as in format 1
    for name in kept:
        faults += unlike(saved.get(name, MISSING), mine.get(name, MISSING), name)
    if faults:
        raise ValueError(f"the state does not fit this run: {listed(faults)}")


def check_buffers(saved: State, optimizer: Optimizer) -> None:
    """Check that what an optimizer of PyTorch's keeps for each parameter has the shape of the parameter.

    Args:
        saved: the state of an optimizer, after `check_state`.

    Raises:
        ValueError: buffers are missing or of another kind or shape; the message names them.
    """
    # Others, and Adafactor with its rows and columns, may keep anything.
    if not type(optimizer).__module__.startswith("torch.optim.") or isinstance(optimizer, torch.optim.Adafactor):
        return
    faults: list[str] = []
    kept, first = dict(saved["state"]), 0
    for group in optimizer.param_groups:
        ours = {first + index: kept.pop(first + index, {}) for index in range(len(group["params"]))}
        names = {name for buffers in ours.values() for name in buffers}
        for (index, buffers), parameter in zip(ours.items(), group["params"], strict=True):
            for name in sorted(names) if buffers else ():  # a frozen parameter has none
                value = buffers.get(name, MISSING)
                if not _is_buffer(value, parameter.shape):
                    found = "missing" if value is MISSING else quoted(value)
                    faults.append(f"optimizer.state[{index}].{name} is {found}, of shape {tuple(parameter.shape)} here")
        first += len(ours)
    faults += [f"optimizer.state[{index}] is for a parameter that is not here" for index in kept]
    if faults:
        raise ValueError(f"the state does not fit this {type(optimizer).__name__}: {listed(faults)}")


def listed(parts: list[str], limit: int = 10) -> str:
    """Return the parts of a message, joined by semicolons; those above the limit are only counted."""
    more = [f"{len(parts) - limit} more"] if len(parts) > limit else []
    return "; ".join(parts[:limit] + more)


def unlike(saved: object, mine: object, where: str) -> Iterator[str]:
    """Yield where nested values are missing, or of other kinds or shapes; text chooses a method and must be equal.

    If mine is None, anything will do, as for keys that are not names, such as the milestones of a schedule.
    """
    if saved is MISSING or mine is MISSING:
        if saved is not mine:
            yield f"{where} is missing{' here' if mine is MISSING else ''}"
    elif isinstance(mine, Mapping) and isinstance(saved, Mapping):
        for name in [name for name in mine if isinstance(name, str)]:
            yield from unlike(saved.get(name, MISSING), mine[name], f"{where}.{name}")
    elif isinstance(mine, list | tuple) and isinstance(saved, list | tuple) and len(saved) == len(mine):
        for index, (each, own) in enumerate(zip(saved, mine, strict=True)):
            yield from unlike(each, own, f"{where}[{index}]")
    elif not (
        mine is None
        or (_is_number(saved) and _is_number(mine))
        or (isinstance(saved, Tensor) and isinstance(mine, Tensor) and saved.shape == mine.shape)
        or (isinstance(saved, bool) and isinstance(mine, bool))
        or (isinstance(mine, str) and saved == mine)
    ):
        yield f"{where} is {quoted(saved)}, and {quoted(mine)} here"


# The kinds of parts.


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_real(value: object) -> bool:
    return type(value) in (int, float)


def _is_number(value: object) -> bool:
    return _is_real(value) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_rate(value: Any) -> bool:
    return _is_number(value) and 0 <= float(value) < math.inf


def _is_setting(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, bool | int | float | str | None) for each in values)


def _dict_of(is_right: Callable[[Any], bool]) -> Callable[[object], bool]:
    """Return a function that checks a dict: its keys are names, and each value is right."""
    return lambda value: (
        isinstance(value, Mapping) and all(isinstance(name, str) and is_right(each) for name, each in value.items())
    )


def _list_of(is_right: Callable[[Any], bool], *, at_least: int = 0) -> Callable[[object], bool]:
    """Return a function that checks a list: its length, and each item."""
    return lambda value: isinstance(value, list) and len(value) >= at_least and all(map(is_right, value))


def _is_plan(value: Any) -> bool:
    return value is None or (_dict_of(_is_count)(value) and set(value) == {"num_steps", "num_epochs"})


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_optimizer_state(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_count(key) and _is_dict(each) for key, each in value.items())


def _is_buffer(value: object, shape: torch.Size) -> bool:
    # Next to buffers there are counts of steps and the like.
    return isinstance(value, Tensor) and (value.shape == shape or (value.ndim == 0 and bool(value >= 0)))


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping) and _list_of(_is_count)(value.get("params")) and _is_rate(value.get("lr"))


def _are_weights(value: object) -> bool:
    # What a module keeps as its "extra state" can be anything.
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (isinstance(each, Tensor) or name.endswith("_extra_state"))
        for name, each in value.items()
    )


def _is_mean(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(_is_real(each) and abs(each) < math.inf for each in value)
    )


def _is_point(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and _is_count(value[0]) and _is_real(value[1])


def _is_place(value: object) -> bool:
    """Return whether this is what `Passes.state_dict` returns."""
    if not isinstance(value, Mapping) or not isinstance(value.get("start"), Mapping):
        return False
    start = value["start"]
    return (
        value.keys() >= {"number", "position", "ended", "start", "now", "kept"}
        and _is_count(value["number"])
        and _is_count(value["position"])
        and isinstance(value["ended"], bool)
        and start.keys() == {"random", "order", "workers"}
        and (start["random"] is None or _can_be_set(start["random"]))
        and _dict_of(_is_count)(start["order"])
        and isinstance(start["workers"], bool)
        and _can_be_set(value["now"])
    )


def _can_be_set(states: Any) -> bool:
    """Return whether these are states of random number generators, by setting those of new ones."""
    try:
        if not isinstance(states["own" if "own" in states else "generators"], list):  # own: in format 1
            return False
        random.Random().setstate(states["python"])
        torch.Generator().set_state(states["torch"])
        if "numpy" in states:
            name, keys, position, has_gauss, gauss = states["numpy"]
            numpy.random.RandomState().set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    except Exception:  # what is damaged can make them fail in any way
        return False
    return True


MISSING = object()
COUNT = ("a whole number of at least 0", _is_count)
POINTS = ("a list of points (step, value)", _list_of(_is_point))
WEIGHTS = ("tensors by name", _are_weights)
MEAN = ("a sum and a number of samples", _is_mean)
# Each part, what it must be, and the function that checks it. A dot leads into a dict.
PARTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "made_with": ("settings by name", _dict_of(_is_setting)),
    "plan": ("num_steps and num_epochs, or None", _is_plan),
    "model": WEIGHTS,
    "optimizer.state": ("a dict for each number of a parameter", _is_optimizer_state),
    "optimizer.param_groups": ("a list of dicts with params and lr", _list_of(_is_group, at_least=1)),
    "scheduler": ("a dict", _is_dict),
    "loss_fn": WEIGHTS,
    "scaler": ("numbers by name", _dict_of(_is_number)),
    "step": COUNT,
    "epoch": COUNT,
    "position": COUNT,
    "skipped_steps": COUNT,
    "epoch_trained": ("True or False", lambda value: isinstance(value, bool)),
    "means.window": MEAN,
    "means.epoch": MEAN,
    "history": ("figures by name", lambda value: _is_dict(value) and set(value) <= {*FIGURES, "metrics"}),
    **{f"history.{name}": POINTS for name in FIGURES},
    "history.metrics": ("lists of points (step, value) by name", _dict_of(_list_of(_is_point))),
    "callbacks": ("a list of dicts", _list_of(_is_dict)),
    "passes": ("for each process the state of its passes over the data", _list_of(_is_place, at_least=1)),
}
OPTIONAL = {"scheduler", "loss_fn", "history.metrics", "passes"}
