"""Random numbers: the generators that a run draws from, and their states."""

import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Any]
# A loader's parts are searched for generators: through containers of at most so many items, and no more objects.
LARGEST_CONTAINER, MOST_OBJECTS = 64, 1000
PLAIN = (type(None), bool, int, float, complex, str, bytes)
EMPTY_CELL = CellType()  # of a name that is not bound yet


class RandomStates:
    """The states of all generators that a run draws from, so that a resumed run draws the same numbers.

    Args:
        loaders: those of training and validation. Generators that they, their samplers, their data sets and the
            transforms of these hold as attributes are included: PyTorch's, Python's and NumPy's.

    Attributes:
        generators: the loaders' own generators, each once, in a fixed order.
    """

    def __init__(self, *loaders: object):
        self.generators = generators(*loaders)

    def get_state(self, names: Collection[str] | None = None) -> State:
        """Return the states of "python", "numpy" if it is imported, "torch", "cuda" if it is used, and "generators".

        Args:
            names: read only these.
        """
        readers: dict[str, Callable[[], Any]] = {
            "python": random.getstate,
            "torch": torch.get_rng_state,
            "generators": lambda: [_get(generator) for generator in self.generators],
        }
        if "numpy" in sys.modules:
            readers["numpy"] = _numpy_state
        if torch.cuda.is_initialized():
            readers["cuda"] = torch.cuda.get_rng_state_all
        return {name: read() for name, read in readers.items() if names is None or name in names}

    def set_state(self, state: State) -> None:
        """Set each generator to its state from `get_state`; those that are not in it stay as they are.

        Raises:
            ValueError: the loaders hold other generators than those of the state, or one of them cannot take its state.
        """
        if "own" in state:  # in format 1 of a checkpoint: only those of PyTorch, which come first here
            self._set_generators(state["own"], self.generators[: len(state["own"])])
        if "generators" in state:
            self._set_generators(state["generators"], self.generators)
        if "python" in state:
            random.setstate(state["python"])
        if "torch" in state:
            torch.set_rng_state(state["torch"])
        if "numpy" in state:
            import numpy

            name, keys, position, has_gauss, gauss = state["numpy"]
            numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
        if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def _set_generators(self, states: list[Any], mine: list[Any]) -> None:
        if len(states) != len(mine):
            raise ValueError(
                f"the saved run drew from {len(states)} generators of its loaders, but these loaders hold {len(mine)}: "
                "continue with loaders that are made as they were then"
            )
        for generator, state in zip(mine, states, strict=True):
            try:
                _set(generator, state)
            except Exception as error:  # a state of another kind can make a generator fail in any way
                raise ValueError(
                    f"a {type(generator).__name__} of the loaders cannot continue from its saved state ({error}): "
                    "continue with loaders that are made as they were then"
                ) from error

    def changed_since(self, state: State) -> list[str]:
        """Return the names of the states that differ from those in an earlier `get_state()`."""
        return [name for name, now in self.get_state().items() if name not in state or not _same(now, state[name])]


def _numpy_state() -> list[Any]:
    """Return the state of NumPy's global generator in plain values and a tensor."""
    name, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
    return [name, torch.from_numpy(keys.astype("int64")), position, has_gauss, gauss]


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor):
        return torch.equal(now, before)
    if isinstance(now, list):
        return all(map(_same, now, before))
    return bool(now == before)


def generators(*loaders: object) -> list[Any]:
    """Return the generators that loaders and their parts hold, each once and PyTorch's first, in a fixed order.

    A part is what an attribute, a short container, a closure or a bound function holds. Global variables are not
    searched, nor are tensors, modules and iterators.
    """
    found = [part for loader in loaders for part in _parts(loader) if is_generator(part)]
    once = list({id(generator): generator for generator in found}.values())
    return sorted(once, key=lambda generator: not isinstance(generator, torch.Generator))


def is_generator(part: object) -> bool:
    """Return whether an object is a random number generator whose state can be kept."""
    if isinstance(part, torch.Generator):
        return True
    if isinstance(part, random.Random):
        return not isinstance(part, random.SystemRandom)  # it draws from the system and has no state
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(part, (numpy.random.Generator, numpy.random.RandomState))


def _get(generator: Any) -> Any:
    """Return a generator's state in plain values and tensors."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    legacy = hasattr(generator, "get_state")  # NumPy's RandomState
    return _plain(generator.get_state(legacy=False) if legacy else generator.bit_generator.state)


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _plain(value: Any) -> Any:
    """Return NumPy's nested state with lists in place of arrays."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _parts(root: object) -> Iterator[object]:
    """Yield an object and what it holds, from near to far, each once."""
    waiting, seen = deque([root]), {id(root): root}
    while waiting:
        part = waiting.popleft()
        yield part
        for each in _held_by(part):
            if id(each) not in seen and len(seen) < MOST_OBJECTS:
                seen[id(each)] = each
                waiting.append(each)


def _held_by(part: Any) -> Iterable[object]:
    """Return the objects that one holds as attributes, items, bound values or in its closure."""
    if isinstance(part, (type, ModuleType, nn.Module, Tensor)) or hasattr(part, "__next__") or is_generator(part):
        return
    held = list(getattr(part, "__dict__", {}).values())
    # Those of a class of its own are left alone: iterating over them runs the code of that class.
    if type(part) in (dict, list, tuple) and len(part) <= LARGEST_CONTAINER:
        held += part.values() if type(part) is dict else part
    elif isinstance(part, functools.partial):
        held += (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, MethodType):
        held.append(part.__self__)
    elif isinstance(part, FunctionType):
        held += [cell.cell_contents for cell in part.__closure__ or () if cell != EMPTY_CELL]
    yield from (each for each in held if not isinstance(each, PLAIN))
