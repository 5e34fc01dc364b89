"""Loops that end early, never begin, or run in ways of which little can be seen."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from case_parts import BATCHES, Classifier, adam, batches, loader, network, rows, sgd
from loop_doctor import LoopDoctor
from loop_doctor.watchers import scope
from torch import nn
from torch.utils.tensorboard import SummaryWriter


def codes(doctor):
    return [finding.code for finding in doctor.findings]


def train(model=None, *, clear=True, writer=None, stop=None):
    torch.manual_seed(0)
    model = network() if model is None else model
    optimizer = sgd(model)
    for step, (x, y) in enumerate(batches() * 3):
        if clear:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if writer is not None:
            writer.add_scalar("loss", loss.item(), step)
        if step == stop:
            raise KeyboardInterrupt
    return model


def test_a_block_without_a_loop_reports_what_it_saw():
    with LoopDoctor() as doctor, torch.no_grad():
        network()(rows()[0])
    assert doctor.findings == []
    assert "Seen: no optimizer, 0 backward calls, the model Sequential." in str(doctor)
    assert "there was no loop to examine" in str(doctor)


def test_an_interrupted_cell_keeps_the_findings_up_to_there():
    with pytest.raises(KeyboardInterrupt), LoopDoctor() as doctor:
        train(clear=False, stop=9)
    assert codes(doctor) == ["missing-zero-grad"]
    assert "9 of 10 steps" in doctor.findings[0].evidence
    assert "The block ended early" in str(doctor)


def test_an_interrupted_accumulation_has_no_dropped_tail():
    def accumulate():
        model = network()
        optimizer = sgd(model)
        for i, (x, y) in enumerate(batches() * 3, 1):
            (F.cross_entropy(model(x), y) / 4).backward()
            if i == 14:
                raise KeyboardInterrupt
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    with pytest.raises(KeyboardInterrupt), LoopDoctor() as doctor:
        accumulate()
    assert doctor.findings == []


def test_an_error_in_the_middle_of_a_backward_call_or_a_step_goes_through():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ZeroDivisionError("own error")

    model = network()
    optimizer = sgd(model)
    x, y = rows()

    def closure():
        raise ZeroDivisionError("own error")

    def broken_backward():
        for i in range(8):
            optimizer.zero_grad()
            logits = model(x)
            F.cross_entropy(Broken.apply(logits) if i == 6 else logits, y).backward()
            optimizer.step()

    def broken_step():
        train()
        optimizer.step(closure)

    for run, seen in (broken_backward, "6 steps of SGD, 7 backward calls"), (broken_step, "18 steps of SGD"):
        with pytest.raises(ZeroDivisionError, match="own error"), LoopDoctor() as doctor:
            run()
        assert doctor.findings == []
        assert seen in str(doctor)


@pytest.mark.parametrize("clear", [True, False])
def test_a_model_on_meta_is_watched_by_its_events(clear):
    model = network().to("meta")
    optimizer = adam(model)
    with LoopDoctor() as doctor:
        for _ in range(6):
            if clear:
                optimizer.zero_grad()
            loss = F.cross_entropy(
                model(torch.zeros(4, 8, device="meta")), torch.zeros(4, dtype=torch.long, device="meta")
            )
            loss.backward()
            optimizer.step()
    assert codes(doctor) == ([] if clear else ["missing-zero-grad"])


# The compiler takes a warning that is an error for its own failure: torch 2.11 itself calls what it warns of, and each
# release has advice for those who run the very first Python 3.13.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["model", "loss", "step"])
@pytest.mark.parametrize("clear", [True, False])
def test_a_compiled_step_trains_alike_and_is_examined(what, clear):
    def run():
        torch.manual_seed(0)
        model = Classifier()
        optimizer = sgd(model)
        called = torch.compile(model, backend="eager", fullgraph=True) if what == "model" else model

        def forward_and_loss(x, y):
            return F.cross_entropy(called(x), y)

        step = optimizer.step
        if what == "loss":
            forward_and_loss = torch.compile(forward_and_loss, backend="eager", fullgraph=True)
        if what == "step":
            step = torch.compile(lambda: optimizer.step(), backend="eager")
        for x, y in batches()[:-1] * 2:
            if clear:
                optimizer.zero_grad()
            forward_and_loss(x, y).backward()
            step()
        return [p.detach().clone() for p in model.parameters()]

    torch.compiler.reset()
    plain = run()
    torch.compiler.reset()
    with LoopDoctor() as doctor:
        watched = run()
    torch.compiler.reset()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    # An optimizer whose step() was compiled too does not call hooks: its steps are not seen, and nothing is reported.
    assert codes(doctor) == ([] if clear or what == "step" else ["missing-zero-grad"])


def test_a_writer_made_before_the_block_is_not_called_left_open(tmp_path):
    writer = SummaryWriter(tmp_path)
    with LoopDoctor() as doctor:
        train(writer=writer)
    assert doctor.findings == []
    assert doctor.curves == {"loss": "this batch's loss"}
    writer.close()


def test_a_writer_closed_before_the_block_is_written_after_its_close(tmp_path):
    writer = SummaryWriter(tmp_path)
    writer.add_scalar("before", 1.0)
    writer.close()
    with LoopDoctor() as doctor:
        writer.add_scalar("inside", 1.0)
    assert codes(doctor) == ["writer-closed-early"]
    assert "Something was written once after close(). The writer was closed before" in doctor.findings[0].evidence
    writer.close()


def test_a_writer_closed_after_the_block_is_no_longer_reported(tmp_path):
    with LoopDoctor() as doctor:
        writer = SummaryWriter(tmp_path)
        train(writer=writer)
    assert codes(doctor) == ["writer-left-open"]
    writer.close()
    assert doctor.findings == []


def test_more_losses_and_tags_than_are_remembered_do_no_harm(tmp_path):
    space = {"F": F}
    lines = "\n".join(f"    F.mse_loss(model(x), x * {i}).backward(); tick({i})" for i in range(20))
    exec(f"def turn(model, x, tick):\n{lines}\n", space)
    model = nn.Linear(4, 4)
    optimizer = sgd(model)
    with LoopDoctor() as doctor, SummaryWriter(tmp_path) as writer:
        for step in range(4):
            optimizer.zero_grad()
            space["turn"](model, torch.ones(2, 4), lambda i, step=step: writer.add_scalar(f"tag {i}", 1.0, step))
            for i in range(80):
                writer.add_scalar(f"other {i}", float(i), step)
            optimizer.step()
    assert doctor.findings == []
    assert len(doctor.curves) == 64


def test_workers_and_threads_of_a_data_loader_change_nothing():
    plain, watched = [], []
    for kept, watching in ((plain, False), (watched, True)):
        torch.manual_seed(0)
        model = network()
        optimizer = sgd(model)
        doctor = LoopDoctor() if watching else None
        if doctor:
            doctor.__enter__()
        for x, y in loader(shuffle=True, num_workers=1):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        if doctor:
            doctor.__exit__(None, None, None)
            assert doctor.findings == []
            assert f"{BATCHES} steps of SGD" in str(doctor)
        kept += [p.detach() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def train_in_parallel(rank, world_size, folder):
    """Train with DistributedDataParallel without the doctor, with it, and with a mistake; return what was found."""
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)

    def train_parallel(clear=True):
        torch.manual_seed(0)
        model = network(nn.Dropout(0.1))
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = sgd(parallel)
        for i, (x, y) in enumerate(batches() * 3, 1):
            loss = F.cross_entropy(parallel(x[rank::world_size]), y[rank::world_size]) / 2
            if i % 2:
                with parallel.no_sync():
                    loss.backward()
            else:
                loss.backward()
                optimizer.step()
                if clear:
                    optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()

    try:
        plain = train_parallel()
        with LoopDoctor() as doctor:
            watched = train_parallel()
        with LoopDoctor() as faulty:
            train_parallel(clear=False)
    finally:
        dist.destroy_process_group()
    return {"same": plain == watched, "codes": [codes(doctor), codes(faulty)], "weights": watched}


def put_result(rank, world_size, folder, results):
    torch.set_num_threads(1)
    results.put(train_in_parallel(rank, world_size, folder))


@pytest.mark.skipif(os.name == "nt", reason="the file store of gloo that this test uses is not available on Windows")
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.proof)])
def test_nothing_is_reported_on_distributed_training(world_size, tmp_path):
    if world_size == 1:
        results = [train_in_parallel(0, 1, tmp_path)]
    else:
        context = torch.multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        torch.multiprocessing.spawn(put_result, (world_size, str(tmp_path), queue), nprocs=world_size)
        results = [queue.get() for _ in range(world_size)]
    for result in results:
        assert result["same"]
        assert result["codes"] == [[], ["missing-zero-grad"]]
        assert result["weights"] == results[0]["weights"]


def test_a_default_device_lets_pytorch_call_backward_twice_and_it_counts_once():
    model = network()
    optimizer = sgd(model)
    with torch.device("cpu"), LoopDoctor() as doctor:
        for x, y in batches() * 3:
            optimizer.zero_grad()
            logits = model(x)
            torch.autograd.backward([F.cross_entropy(logits, y), 0.01 * logits.square().mean()])
            optimizer.step()
    assert doctor.findings == [], str(doctor)
    assert f"{3 * BATCHES} backward calls" in str(doctor)


def test_steps_that_only_go_into_a_cuda_graph_are_not_seen(monkeypatch):
    capturing = False
    monkeypatch.setattr(scope, "capturing", lambda: capturing)
    model = network()
    optimizer = sgd(model)
    with LoopDoctor() as doctor:
        doctor._watch.scope.has_cuda = True
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        capturing = True
        for x, y in batches() * 3:  # nothing is cleared here, as in a graph whose gradients are overwritten
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        capturing = False
    assert doctor.findings == [], str(doctor)
    assert f"Seen: {BATCHES} steps of SGD, {BATCHES} backward calls" in str(doctor)
