"""What autograd keeps alive: the nodes of the graph behind a tensor, and the bytes that they hold for backward."""

from collections.abc import Container, Iterable

import torch
from torch import Tensor
from torch.autograd.graph import Node


def nodes(*tensors: Tensor, stop: Container[Node] = ()) -> set[Node]:
    """Collect the nodes of the graph that hangs on some tensors, each once, however many paths lead to it.

    Args:
        tensors: a tensor without a graph adds nothing.
        stop: nodes that are left out, with all that can be reached through them alone.

    The nodes live as long as the set does.

    Raises:
        TypeError: something else than a tensor.

    >>> w = torch.tensor(1.0, requires_grad=True)
    >>> sorted(node.name() for node in nodes(w * 2 + w))
    ['AddBackward0', 'MulBackward0', 'torch::autograd::AccumulateGrad']
    """
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"a graph hangs on a tensor, got {tensor!r} of type {type(tensor).__name__}")
    found: set[Node] = set()
    waiting = [tensor.grad_fn for tensor in tensors]
    while waiting:  # a list and no recursion: a chain of losses is longer than Python's stack
        node = waiting.pop()
        if node is not None and node not in found and node not in stop:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found


class KeptTensors:
    """Counts the bytes that graphs built inside the block keep for backward; freed ones leave the count at once.

    Autograd is asked itself: it hands each tensor that it keeps to a hook and drops what the hook gave back when it
    no longer needs it. Several tensors in one piece of memory count once.

    Args:
        beside: tensors that live anyhow, such as weights and the data set; they are not counted.

    Attributes:
        bytes: what is kept now; also after the block.
        pieces: in how many pieces of memory.
    """

    def __init__(self, beside: Iterable[Tensor] = ()):
        self._beside = {tensor.untyped_storage().data_ptr() for tensor in beside}
        self._users: dict[int, int] = {}
        self.bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    @property
    def pieces(self) -> int:
        return len(self._users)

    def __enter__(self) -> "KeptTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor, self)
        address = held.address
        if address not in self._beside:
            if address not in self._users:
                self._users[address] = 0
                self.bytes += tensor.untyped_storage().nbytes()
            self._users[address] += 1
        return held

    def _let_go(self, held: "_Held") -> None:
        if held.address in self._users:
            self._users[held.address] -= 1
            if self._users[held.address] == 0:
                del self._users[held.address]
                self.bytes -= held.tensor.untyped_storage().nbytes()


class _Held:
    """Lives exactly as long as autograd keeps a tensor."""

    def __init__(self, tensor: Tensor, kept: KeptTensors):
        # Without its graph: a node that holds its own output would otherwise hold itself, for ever.
        self.tensor, self.kept = tensor.detach(), kept
        self.address = self.tensor.untyped_storage().data_ptr()

    def __del__(self) -> None:
        self.kept._let_go(self)


def _unpack(held: _Held) -> Tensor:
    return held.tensor
