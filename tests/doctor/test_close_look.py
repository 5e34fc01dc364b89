"""A close look at a step leaves no mode behind, keeps nothing alive, and passes over tensors that it cannot read."""

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from case_parts import CLASSES, batches, network, sgd
from loop_doctor import LoopDoctor
from loop_doctor.watchers.close_look import CloseLook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.flop_counter import FlopCounterMode


class UserMode(TorchFunctionMode):
    """A mode of the user's that passes everything on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def looking():
    """Whether a close look is in place."""
    return any(isinstance(mode, CloseLook) for mode in _get_current_function_mode_stack())


class Loop:
    """A loop with a term that has no gradient, so that every step is looked at closely."""

    def __init__(self):
        self.model = network()
        self.optimizer = sgd(self.model)

    def steps(self, number, between=lambda logits: None):
        for x, y in (batches() * 3)[:number]:
            logits = self.model(x)
            between(logits)
            loss = F.cross_entropy(logits, y) + (logits.argmax(1) != y).float().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


@pytest.fixture(autouse=True)
def no_mode_is_left():
    yield
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_look_ends_with_the_block(error):
    with pytest.raises(error) if error else LoopDoctor(), LoopDoctor() if error else torch.enable_grad():
        Loop().steps(3)
        assert looking()
        if error:
            raise error
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("ends_first", ["mode", "block"])
def test_a_mode_that_begins_during_a_look_stays_in_place(ends_first):
    mode, doctor = UserMode(), LoopDoctor()
    with doctor:
        loop = Loop()
        loop.steps(3)
        assert looking()
        mode.__enter__()
        loop.steps(2)
        assert not looking()
        assert _get_current_function_mode_stack() == [mode]
        if ends_first == "mode":
            mode.__exit__(None, None, None)
            loop.steps(2)
            assert looking()
    if ends_first == "block":
        assert _get_current_function_mode_stack() == [mode]
        mode.__exit__(None, None, None)
    assert [finding.code for finding in doctor.findings] == ["loss-term-without-gradient"]


def test_a_block_that_ends_below_a_mode_of_the_users_takes_only_its_own():
    mode = UserMode()
    with LoopDoctor():
        Loop().steps(3)
        mode.__enter__()
        assert looking()
    assert _get_current_function_mode_stack() == [mode]
    mode.__exit__(None, None, None)


def test_a_default_device_may_begin_and_end_during_looks():
    with LoopDoctor() as doctor:
        loop = Loop()
        loop.steps(2)
        assert looking()
        torch.set_default_device("cpu")
        loop.steps(2)
        torch.set_default_device(None)
        loop.steps(2)
        with torch.device("cpu"):
            loop.steps(1)
        loop.steps(2)
    assert [finding.code for finding in doctor.findings] == ["loss-term-without-gradient"]


def test_a_look_keeps_no_tensor_alive():
    kept = []

    def between(logits):
        cut, number = logits.detach() * 2, logits.sum().item()
        after = logits + cut * number
        references = [weakref.ref(each) for each in (cut, after)]
        del cut, after
        kept.append((looking(), [reference() is None for reference in references]))

    with LoopDoctor():
        Loop().steps(6, between)
    assert [seen for seen, _ in kept] == [False, *[True] * 5]
    assert all(all(gone) for _, gone in kept)


def test_a_look_that_has_ended_keeps_no_graph_alive():
    nodes = []

    def between(logits):
        logits.detach()
        marker = type("Marker", (), {})()
        logits.grad_fn.metadata["test"] = marker
        nodes.append(weakref.ref(marker))

    with LoopDoctor():
        Loop().steps(5, between)
        gc.collect()
        assert [reference() is None for reference in nodes] == [True] * 5


def test_tensors_without_plain_numbers_are_passed_over():
    class Marked(torch.Tensor):
        pass

    seen = []

    def between(logits):
        seen.append(looking())
        rows = logits.detach()
        rows.to_sparse().sum().item()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nested tensors are a prototype
            for layout in (torch.strided, torch.jagged):
                torch.nested.nested_tensor([rows[0], rows[1, :2]], layout=layout).unbind()
        torch.view_as_complex(rows[:, :2].contiguous()).abs().sum().tolist()
        torch.empty(0, CLASSES).sum(0).tolist()
        (logits[:0].detach() + 1).tolist()
        torch.ones(2, device="meta").add(1).sum()
        (rows.as_subclass(Marked) + logits).sum().detach().item()
        torch.func.vmap(lambda row: row.sum() + logits[0].detach().max())(rows)
        torch.func.grad(lambda row: row.detach().sum() + row.square().sum())(rows)

    with LoopDoctor() as doctor:
        Loop().steps(8, between)
    assert any(seen)
    assert [finding.code for finding in doctor.findings] == ["loss-term-without-gradient"]


def test_there_is_no_look_beside_a_mode_that_counts_operations():
    counted = []
    for watched in (False, True):
        torch.manual_seed(0)
        with LoopDoctor() if watched else torch.enable_grad(), FlopCounterMode(display=False) as counter:
            Loop().steps(4, lambda logits: counted.append(looking()))
        counted.append(counter.get_total_flops())
    assert counted[:5] == counted[5:]


def test_a_model_may_be_compiled_during_a_look():
    with LoopDoctor() as doctor:
        loop = Loop()
        loop.steps(3)
        assert looking()
        loop.model = torch.compile(loop.model, backend="eager")
        loop.steps(4)
        assert not looking()
    assert [finding.code for finding in doctor.findings] == ["loss-term-without-gradient"]
