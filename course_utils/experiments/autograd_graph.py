"""What autograd keeps alive: the nodes of the graph behind a tensor, and the bytes they keep for backward()."""

from collections.abc import Container, Iterable

import torch
from torch import Tensor
from torch.autograd.graph import Node


def nodes(*tensors: Tensor, stop: Container[Node] = ()) -> set[Node]:
    """Return the nodes of the graphs behind some tensors, each once, however many paths lead to it.

    Args:
        tensors: a tensor without a graph adds nothing.
        stop: nodes to leave out, with everything that can be reached only through them.

    The nodes live as long as the set does.

    Raises:
        TypeError: an argument is not a tensor.

    >>> w = torch.tensor(1.0, requires_grad=True)
    >>> sorted(node.name() for node in nodes(w * 2 + w))
    ['AddBackward0', 'MulBackward0', 'torch::autograd::AccumulateGrad']
    """
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"only a tensor can have a graph, got {tensor!r} of type {type(tensor).__name__}")
    found: set[Node] = set()
    waiting = [tensor.grad_fn for tensor in tensors]
    while waiting:  # a list instead of recursion: a chain of losses is longer than Python's stack
        node = waiting.pop()
        if node is not None and node not in found and node not in stop:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found


class KeptTensors:
    """Counts the bytes that graphs built inside the block keep for backward(); freed bytes leave the count at once.

    Autograd itself reports them: it passes each tensor that it saves to a hook, and drops the hook's result when it no
    longer needs it. Several tensors that share their memory count once.

    Args:
        exclude: tensors that live anyway, such as the weights and the data set; they are not counted.

    Attributes:
        bytes: what is kept now, also after the block.
        pieces: the number of separate memory blocks that these bytes are in.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()):
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
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

    def _pack(self, tensor: Tensor) -> "_Saved":
        saved = _Saved(tensor, self)
        address = saved.address
        if address not in self._excluded:
            if address not in self._users:
                self._users[address] = 0
                self.bytes += tensor.untyped_storage().nbytes()
            self._users[address] += 1
        return saved

    def _release(self, saved: "_Saved") -> None:
        if saved.address in self._users:
            self._users[saved.address] -= 1
            if self._users[saved.address] == 0:
                del self._users[saved.address]
                self.bytes -= saved.tensor.untyped_storage().nbytes()


class _Saved:
    """Lives exactly as long as autograd keeps a tensor."""

    def __init__(self, tensor: Tensor, kept: KeptTensors):
        # Detached: otherwise a node that saves its own output would keep itself alive forever.
        self.tensor, self.kept = tensor.detach(), kept
        self.address = self.tensor.untyped_storage().data_ptr()

    def __del__(self) -> None:
        self.kept._release(self)


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor
