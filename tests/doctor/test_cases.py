"""Every mistake is reported by its code and its line, nothing is reported on a correct loop, and no run is changed."""

import builtins
import contextlib
import gc
import logging
import random
import re
import sys
import weakref
from collections import Counter

import cases
import numpy as np
import pytest
import tensorboardX
import torch
import tqdm.std
from loop_doctor import LoopDoctor
from loop_doctor.messages import MESSAGES
from loop_doctor.watchers import device_reads
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils.data import dataloader
from torch.utils.tensorboard import SummaryWriter

# Where the doctor, or anything else, could leave something behind.
PLACES = (
    torch,
    dataloader.DataLoader,
    Tensor,
    torch._C.TensorBase,
    torch,
    torch.autograd,
    nn.functional,
    Optimizer,
    torch.optim.SGD,
    torch.optim.Adam,
    torch.amp.GradScaler,
    *(kind for kind in vars(schedulers).values() if isinstance(kind, type)),
    dataloader._BaseDataLoaderIter,
    SummaryWriter,
    tensorboardX.SummaryWriter,
    tqdm.std.tqdm,
    builtins,
    logging,
    logging.Logger,
    nn.Module,
    nn.Linear,
)
CLIPS = nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_
GLOBAL_HOOKS = (
    *(
        value
        for name, value in vars(nn.modules.module).items()
        if name.startswith("_global_") and hasattr(value, "items")
    ),
    _global_optimizer_pre_hooks,
    _global_optimizer_post_hooks,
)


def attributes():
    """Return the identity of every attribute that a patch could replace."""
    inside = {clip: id(clip.__closure__[0].cell_contents) for clip in CLIPS}
    return [inside, *({name: id(value) for name, value in vars(place).items()} for place in PLACES)]


def parts(value):
    """The tensors, numbers and names in what a loop returned, as plain comparable things."""
    if isinstance(value, Tensor):
        yield from ("tensor", dense(value), value.requires_grad, None if value.grad is None else dense(value.grad))
        yield len(value._backward_hooks or ())
    elif isinstance(value, nn.Module):
        for name, module in value.named_modules():
            hooks = [len(value) for key, value in sorted(vars(module).items()) if key.endswith("_hooks") and value]
            yield from (name, module.training, hooks, sorted(vars(module)))
        for name, parameter in value.named_parameters():
            yield name
            yield from parts(parameter)
        yield from parts(dict(value.named_buffers()))
    elif isinstance(value, Optimizer):
        yield from parts(value.state_dict())
        yield sorted(vars(value))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from parts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from parts(part)
    else:
        yield value


def the_same(one, two):
    """Whether two lists of parts are equal, tensors bit by bit (NaN equals NaN)."""
    if len(one) != len(two):
        return False
    return all(
        type(a) is type(b)
        and (torch.equal(bits(a), bits(b)) if isinstance(a, Tensor) else a == b or (a != a and b != b))
        for a, b in zip(one, two, strict=True)
    )


def dense(tensor):
    tensor = tensor.detach().clone()
    return tensor.to_dense() if tensor.is_sparse else tensor


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def outcome(case, folder, doctor=None):
    """Run a case from the same seeds, and return what it left behind, random numbers included."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    folder.mkdir()
    expected = contextlib.nullcontext() if case.raises is None else pytest.raises(case.raises)
    with expected, doctor or contextlib.nullcontext():
        result = case.run(folder)
    left = [] if case.raises is not None else list(parts(result))
    return [*left, torch.get_rng_state(), random.random(), float(np.random.rand()), torch.is_grad_enabled()]


def examine(case, tmp_path, monkeypatch):
    """Run a case without and with the doctor, compare how both ended, and return the doctor."""
    if case.waits:
        monkeypatch.setattr(device_reads, "DEVICES_THAT_WAIT", ("cpu",))
    plain = outcome(case, tmp_path / "plain")
    before, hooks = attributes(), [dict(each) for each in GLOBAL_HOOKS]
    finders, modes = list(sys.meta_path), _get_current_function_mode_stack()
    doctor = LoopDoctor(**dict(case.options))
    watched = outcome(case, tmp_path / "watched", doctor)
    assert attributes() == before
    assert [dict(each) for each in GLOBAL_HOOKS] == hooks
    assert sys.meta_path == finders
    assert _get_current_function_mode_stack() == modes
    assert the_same(plain, watched)
    return doctor


# Loops that cannot run as written when new tensors are created on the card, and the reason.
ONLY_ON_THE_CPU = {
    "autograd_backward_never_cleared": "a DataLoader that shuffles draws from a CPU generator",
    "sum_returned_by_a_function": "a DataLoader that shuffles draws from a CPU generator",
    "plain_loop": "a DataLoader that shuffles draws from a CPU generator",
    "summed_loss_by_samples": "a DataLoader that shuffles draws from a CPU generator",
    "vae": "a DataLoader that shuffles draws from a CPU generator",
    "course_trainer": "Batches draw from a CPU generator",
    "numpy_as_image": "NumPy cannot read a tensor on the card",
    "recurrent_dropout_in_eval": "cuDNN differentiates a recurrent layer only in training mode",
}


@pytest.fixture
def on_the_card():
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


ON_THE_CARD = [case for case in (*cases.FAULTY, *cases.CORRECT) if case.name not in ONLY_ON_THE_CPU]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", ON_THE_CARD if torch.cuda.is_available() else [None], ids=lambda c: c and c.name)
def test_on_a_card_the_same_is_found(case, tmp_path, on_the_card):
    doctor = LoopDoctor(**dict(case.options))
    outcome(case, tmp_path / "watched", doctor)
    # A loop that is read at each step waits there, whatever else it shows.
    found = {finding.code for finding in doctor.findings} - ({"waits-every-step"} - set(case.codes))
    assert found == set(case.codes), str(doctor)


def test_a_graph_that_outlives_the_block_keeps_no_hook_of_the_doctor():
    model, doctor = nn.Linear(2, 2), LoopDoctor()
    with doctor:
        watching = weakref.ref(doctor._watch)
        logits = model(torch.ones(3, 2))
        loss = logits.square().sum()
        loss.backward(retain_graph=True)
    gc.collect()
    assert watching() is None
    loss.backward()
    assert torch.equal(model.bias.grad, 2 * 2 * logits.detach().sum(dim=0))


@pytest.mark.parametrize("case", cases.FAULTY, ids=lambda case: case.name)
def test_a_mistake_is_reported_by_its_code_and_its_line(case, tmp_path, monkeypatch):
    doctor = examine(case, tmp_path, monkeypatch)
    findings = {finding.code: finding for finding in doctor.findings}
    assert sorted(findings) == sorted(case.codes), str(doctor)
    evidence = " ".join(finding.evidence for finding in findings.values())
    for text in case.evidence:
        assert text in evidence
    for code, finding in findings.items():
        assert code in re.split(r"[ ,]+", finding.where.partition("# <- ")[2]), finding.where
        assert finding.level == MESSAGES[code].level


@pytest.mark.parametrize("case", cases.CORRECT, ids=lambda case: case.name)
def test_nothing_is_reported_on_a_correct_loop(case, tmp_path, monkeypatch):
    doctor = examine(case, tmp_path, monkeypatch)
    assert doctor.findings == [], str(doctor)


def test_every_code_has_three_faulty_loops_and_two_correct_ones_that_look_alike():
    names = [case.name for case in (*cases.FAULTY, *cases.CORRECT)]
    assert len(set(names)) == len(names)
    faulty = Counter(code for case in cases.FAULTY for code in case.codes)
    correct = Counter(code for case in cases.CORRECT for code in case.like)
    assert set(faulty) == set(correct) == set(MESSAGES)
    assert {code: number for code, number in faulty.items() if number < 3} == {}
    assert {code: number for code, number in correct.items() if number < 2} == {}
    proved = {code for case in cases.FAULTY if case.evidence for code in case.codes}
    assert proved == set(MESSAGES)
