"""A close look at one step: every call of PyTorch from the user's own code, to see where a gradient gets lost."""

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import address, leaves
from loop_doctor.records import Record
from loop_doctor.records.inputs import CHOICE, DETACHED, NO_GRAD, NUMBER, Cut, Term

MAX_CUTS, MAX_LINES = 64, 16
# What these return has the shape of their input, and nothing of its numbers.
_NEW = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like", "bernoulli")
_SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub")
_JOINS = ("stack", "cat")
_DETACHING = ("detach", "detach_", "data")
_TO_ARRAY = ("numpy", "__array__")
_TO_PYTHON = (*_TO_ARRAY, "item", "tolist", "__float__", "__int__")
_FROM_PYTHON = ("tensor", "as_tensor", "from_numpy")
_NOT_FOLLOWED = tuple(os.path.dirname(file) + os.sep for file in (torch.optim.__file__, os.path.dirname(__file__)))
TERM = "loop doctor: a term without a gradient"


@dataclass(frozen=True)
class Origin:
    """Where a number without a gradient came from: the line and the function that left the graph."""

    location: Location | None
    by: str
    kind: str
    weights: frozenset[int] = field(default_factory=frozenset)
    beside: tuple[Any, ...] = ()  # the node that was detached, and those right below it


class CloseLook(TorchFunctionMode):
    """Follows numbers that leave the graph, until they are added to a loss or go back into a model.

    Results are what they would be without it: each function is called as it is, and its result is passed on.

    Args:
        unreached: the ids of the weights that never received a gradient so far.
    """

    def __init__(self, record: Record, sites: CallSites, sees: Callable[[], bool], unreached: frozenset[int]):
        super().__init__()
        self._record, self._sites, self._sees, self._unreached = record.inputs, sites, sees, unreached
        self._tensors: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}
        self._storages: dict[int, tuple[StorageWeakRef, Origin]] = {}
        self._arrays: dict[int, tuple[StorageWeakRef, Origin]] = {}
        self._numbers: dict[float, Origin] = {}
        self._meant: set[Any] = set()  # sums whose value is one thing on purpose, and whose gradient is another
        self._num_cuts = 0

    def begin(self) -> None:
        """Put the look in place."""
        TorchFunctionMode.__enter__(self)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # What an optimizer or the doctor computes is not part of the loss.
        if self._sees() and not sys._getframe(1).f_code.co_filename.startswith(_NOT_FOLLOWED):
            self._follow(getattr(func, "__name__", ""), func, args, kwargs or {}, result)
        return result

    def _follow(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") != "data":
            return
        given = [each for each in _parts((args, kwargs)) if _plain(each)]
        if isinstance(result, Tensor):
            if not _plain(result):
                return
            if result.requires_grad:
                self._back_in_the_graph(name, args, given, result)
            elif name in _FROM_PYTHON and not given:
                self._from_python(result)
            elif name not in _NEW:
                self._without_gradient(name, given, [result])
        elif isinstance(result, tuple | list) and result and all(_plain(each) for each in result):
            self._without_gradient(name, given, [each for each in result if not each.requires_grad])
        elif name in _TO_PYTHON and given:
            self._to_python(name, given[0])
        elif name == "__set__" and given and given[0].requires_grad and given[0].is_leaf:
            self._note_cut(self._origin(given[0]))  # tensor.requires_grad = True

    def _without_gradient(self, name: str, given: list[Tensor], results: list[Tensor]) -> None:
        """A result has no gradient: note if its numbers come from tensors that have one."""
        origin = next((known for each in given if (known := self._origin(each)) is not None), None)
        if origin is None:
            sources = [each for each in given if each.requires_grad]
            if not sources or name == "grad":
                return
            origin = self._cut("data" if name == "__get__" else name, sources[0])
        if origin is not None:
            for result in results:
                self._remember(result, origin)

    def _cut(self, name: str, source: Tensor) -> Origin | None:
        self._num_cuts += 1
        if self._num_cuts > MAX_CUTS:
            return None
        node = source.grad_fn
        behind = frozenset[int]()
        if node is not None and self._unreached:
            behind = frozenset(id(leaf) for leaf in leaves(node)) & self._unreached
        beside = () if node is None else (node, *(below for below, _ in node.next_functions))
        return Origin(self._sites.current(), name.strip("_"), _kind_of_cut(name), behind, beside)

    def _origin(self, tensor: Tensor) -> Origin | None:
        known = self._tensors.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        if not self._storages or not address(tensor):
            return None
        # No mode sees that Variable(tensor) makes an alias. An array keeps the storage of its tensor alive, and
        # from_numpy() makes another storage at the same address.
        held = self._storages.get(tensor.untyped_storage()._cdata) or self._arrays.get(address(tensor))
        return held[1] if held is not None and not held[0].expired() else None

    def _remember(self, tensor: Tensor, origin: Origin) -> None:
        self._tensors[id(tensor)] = weakref.ref(tensor), origin
        if address(tensor):
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = StorageWeakRef(storage), origin

    def _to_python(self, name: str, tensor: Tensor) -> None:
        known = self._origin(tensor)
        if known is None and not tensor.requires_grad:
            return
        origin = known or self._cut(name, tensor)
        if origin is not None and name in _TO_ARRAY and address(tensor):
            self._arrays[address(tensor)] = StorageWeakRef(tensor.untyped_storage()), origin
        if origin is not None and tensor.numel() and tensor.is_cpu and not tensor.is_complex():
            self._numbers[float(tensor.detach().flatten()[0])] = origin

    def _from_python(self, result: Tensor) -> None:
        if not self._numbers or not result.numel() or not result.is_cpu or result.is_complex():
            return
        origin = self._numbers.get(float(result.detach().flatten()[0]))
        if origin is not None:
            self._remember(result, origin)

    def _back_in_the_graph(self, name: str, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> None:
        if name in ("sub", "__sub__", "rsub", "__rsub__") and len(given) == 2:
            self._compare_shapes(given, result)
        if result.is_leaf and not isinstance(result, nn.Parameter):
            if name in _FROM_PYTHON:
                self._from_python(result)
            self._note_cut(self._origin(result))
        for tensor in given:
            if tensor.requires_grad:
                if tensor.is_leaf and not isinstance(tensor, nn.Parameter):
                    self._note_cut(self._origin(tensor))  # Variable(out.data, requires_grad=True)
                continue
            if (origin := self._origin(tensor)) is None:
                continue
            self._note_cut(origin)
            if (name in _SUMS and result.numel() == 1) or (name in _JOINS and tensor.numel() == 1):
                self._note_term(origin, tensor, given, result)
        if name in _SUMS and result.numel() == 1:
            for value in args:
                if isinstance(value, float) and (origin := self._numbers.get(value)) is not None:
                    self._note_term(origin, value, given, result)

    def _note_cut(self, origin: Origin | None) -> None:
        if origin is not None and origin.weights and len(self._record.cuts) < MAX_LINES:
            cut = self._record.cuts.setdefault(origin.location, Cut(origin.location, origin.by, origin.kind))
            cut.weights |= origin.weights
            cut.count += 1

    def _note_term(self, origin: Origin, term: Tensor | float, given: list[Tensor], result: Tensor) -> None:
        """Note a term without a gradient in a sum that has one.

        In x + (y - x).detach() the gradient is meant to come from x alone.
        """
        others = [each.grad_fn for each in given if each.requires_grad]
        if result.grad_fn is None or any(node in origin.beside or node in self._meant for node in others if node):
            self._meant.add(result.grad_fn)
            return
        if isinstance(term, Tensor) and (term.is_meta or term.numel() != 1):
            return
        location = self._sites.current()
        if len(self._record.terms) < MAX_LINES or location in self._record.terms:
            found = self._record.terms.setdefault(location, Term(location, origin.by, origin.kind))
            if len(found.values) < MAX_LINES:
                found.values.append(float(term.detach()) if isinstance(term, Tensor) else term)
            cast(dict[str, Any], result.grad_fn.metadata)[TERM] = location

    def _compare_shapes(self, given: list[Tensor], result: Tensor) -> None:
        one, two = given
        if one.requires_grad != two.requires_grad and crossed(one.shape, two.shape):
            shapes = {"one": tuple(one.shape), "two": tuple(two.shape), "result": tuple(result.shape)}
            self._record.broadcasts.note(self._sites.current(), name="the difference", **shapes)


def _plain(value: Any) -> bool:
    """Return whether a value is a tensor with numbers of its own: no subclass, not sparse, not inside a transform."""
    return isinstance(value, Tensor) and not value.is_meta and not value.is_nested and address(value) != 0


def _kind_of_cut(name: str) -> str:
    if name in _DETACHING:
        return DETACHED
    if name in _TO_PYTHON or name in _FROM_PYTHON:
        return NUMBER
    return CHOICE if torch.is_grad_enabled() else NO_GRAD


def crossed(one: torch.Size, two: torch.Size) -> bool:
    """Return whether two shapes hold the same numbers, and are broadcast against each other all the same.

    (16,) and (16, 1) give 16×16. Where both have the same number of dimensions, somebody arranged them so.
    """
    if len(one) == len(two) or one.numel() != two.numel() or one.numel() < 2:
        return False
    return [size for size in one if size != 1] == [size for size in two if size != 1] and (
        torch.broadcast_shapes(one, two).numel() > one.numel() if _broadcastable(one, two) else False
    )


def _broadcastable(one: torch.Size, two: torch.Size) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(two), strict=False))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _parts(part)
    elif isinstance(value, tuple | list) and len(value) <= 64:
        for part in value:
            yield from _parts(part)
    else:
        yield value


def nothing_in_the_way() -> bool:
    """Return whether a mode may be put in place: none is active, and nothing was compiled.

    A user's own mode could end while ours is active, and Python's stack of modes would be mixed up. A compiler would
    compile again for each mode.
    """
    compiler = getattr(getattr(torch, "_dynamo", None), "eval_frame", None)
    backends = getattr(compiler, "cached_backends", {})  # None for functions that are kept from the compiler
    if _get_current_function_mode_stack() or torch._C._len_torch_dispatch_stack():
        return False
    return all(each is None for each in backends.values())


def remove(look: CloseLook) -> bool:
    """Take a look off the stack of modes, also from below a mode of the user's, and return whether it was there."""
    if not any(mode is look for mode in _get_current_function_mode_stack()):
        return False
    above = []
    while (mode := _pop_mode()) is not look:
        above.append(mode)
    for mode in reversed(above):
        _push_mode(mode)
    return True
