"""The doctor as it is used: a block, a cell, a script, one at a time, and its card."""

import functools
import threading

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from loop_doctor import Finding, LoopDoctor, load_ipython_extension
from loop_doctor.messages import MESSAGES
from loop_doctor.rules import RULES
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.tensorboard import SummaryWriter

FAULTY = """\
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for i in range(12):
    loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
    loss.backward()
    optimizer.step()
"""
FIXED = FAULTY.replace("    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()")


def train(num_steps=12, *, clear=True, at=None):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(num_steps):
        if step == at:
            raise KeyError("own <error>")
        loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
        if clear:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def patched():
    """Return everything that a watch changes in PyTorch."""
    return (
        torch.autograd.backward,
        torch.autograd.grad,
        nn.functional.cross_entropy,
        torch.optim.Optimizer.zero_grad,
        vars(torch.optim.Optimizer)["__init__"],
        torch.optim.lr_scheduler.LRScheduler.step,
        SummaryWriter.add_scalar,
        SummaryWriter.close,
        torch.amp.GradScaler.step,
        len(_global_optimizer_pre_hooks),
        len(_global_optimizer_post_hooks),
        vars(nn.Module)["__call__"],
        "item" in vars(torch.Tensor),
    )


def test_a_finding_says_what_where_why_and_how_to_fix_it():
    with LoopDoctor() as doctor:
        train(clear=False)
    (finding,) = doctor.findings
    assert isinstance(finding, Finding)
    assert (finding.code, finding.level, finding.lesson) == ("missing-zero-grad", "problem", "04_zero_grad")
    assert "11 of 12 steps" in finding.evidence
    assert "`weight` still contained step 1's gradient" in finding.evidence
    line = train.__code__.co_firstlineno + 10
    assert finding.where.endswith(f"test_loop_doctor.py, line {line} in train(): loss.backward()")
    assert "optimizer.zero_grad()" in finding.fix
    assert (finding.file, finding.line) == (__file__, line)
    for part in (finding.message, finding.evidence, finding.where, finding.lesson):
        assert part in str(doctor)
    assert repr(finding) == f"missing-zero-grad (problem): {finding.evidence}"


def test_a_lesson_is_linked_only_if_its_notebook_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with LoopDoctor() as doctor:
        train(clear=False)
    assert "<a " not in doctor._repr_html_()
    assert "04_zero_grad of “The Training Loop, Line by Line”" in doctor._repr_html_()
    assert "Lesson: 04_zero_grad of “The Training Loop, Line by Line”" in str(doctor)
    (tmp_path / "04_zero_grad.ipynb").touch()
    assert '<a href="04_zero_grad.ipynb">04_zero_grad</a>' in doctor._repr_html_()


def test_every_rule_has_its_message():
    assert RULES.keys() == MESSAGES.keys()


def test_everything_is_restored_also_after_an_error():
    before = patched()
    doctor = LoopDoctor()
    with doctor as entered:
        assert entered is doctor
        assert patched() != before
    assert patched() == before
    with pytest.raises(KeyError, match="own <error>"), LoopDoctor() as doctor:
        train(clear=False, at=8)
    assert patched() == before
    assert [finding.code for finding in doctor.findings] == ["missing-zero-grad"]
    assert "7 of 8 steps" in doctor.findings[0].evidence
    assert "The block ended early" in str(doctor)


def test_a_function_kept_from_inside_the_block_works_on_after_it():
    with LoopDoctor() as doctor:
        kept = nn.functional.cross_entropy
        backward = torch.autograd.backward
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = kept(logits, torch.tensor([0]))
    backward(loss)
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    assert logits.grad.tolist() == [[-0.5, 0.5]]
    assert doctor.findings == []


def test_one_doctor_at_a_time_in_all_threads():
    refused = []

    def another():
        try:
            LoopDoctor().__enter__()
        except RuntimeError as error:
            refused.append(str(error))

    with LoopDoctor():
        with pytest.raises(RuntimeError, match="another LoopDoctor is watching"), LoopDoctor():
            pass
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "another LoopDoctor is watching" in refused[0]
    with LoopDoctor() as later:
        train()
    assert later.findings == []


def test_a_loop_in_another_thread_is_left_out_and_mentioned():
    with LoopDoctor() as doctor:
        thread = threading.Thread(target=functools.partial(train, clear=False))
        thread.start()
        thread.join()
        train()
    assert doctor.findings == []
    assert "12 steps of SGD, 12 backward calls" in str(doctor)
    assert "Another thread trained too" in str(doctor)


def test_misuse_is_named():
    doctor = LoopDoctor()
    with pytest.raises(RuntimeError, match="has not watched a block yet"):
        _ = doctor.findings
    assert repr(doctor) == "LoopDoctor that has not watched a block yet"
    assert doctor._repr_html_() is None
    with doctor:
        assert repr(doctor) == "LoopDoctor that is watching a block"
        assert doctor._repr_html_() is None
        with pytest.raises(RuntimeError, match="the block is still open"):
            _ = doctor.findings
    with pytest.raises(RuntimeError, match="has already watched a block"), doctor:
        pass
    with pytest.raises(RuntimeError, match="is not watching: enter its block"):
        doctor.__exit__(None, None, None)


def test_harmless_habits_are_reported_only_on_request():
    def zero_after_step():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(5):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    with LoopDoctor() as quiet:
        zero_after_step()
    with LoopDoctor(harmless=True) as talking:
        zero_after_step()
    assert quiet.findings == []
    (finding,) = talking.findings
    assert (finding.code, finding.level) == ("harmless-here", "hint")
    assert "zero_grad() comes after step()" in finding.evidence
    with LoopDoctor(harmless=True, ignore=["harmless-here"]) as ignoring:
        zero_after_step()
    assert ignoring.findings == []


def test_the_users_strings_are_escaped_in_the_card(tmp_path):
    hostile = "<img src=x onerror=alert(1)>`"
    with LoopDoctor() as doctor:
        writer = SummaryWriter(tmp_path)
        total = 0.0
        for step in range(6):
            loss = nn.functional.mse_loss(nn.Linear(2, 1)(torch.ones(4, 2)), torch.zeros(4, 1))
            loss.backward()
            total += loss.item()
            writer.add_scalar(hostile, total, step)
    card = doctor._repr_html_()
    assert "<img" not in card
    assert "&lt;img src=x onerror=alert(1)&gt;" in card
    assert {finding.code for finding in doctor.findings} == {"loss-never-reset", "writer-left-open"}
    writer.close()
    assert {finding.code for finding in doctor.findings} == {"loss-never-reset"}


# As a cell magic.


@pytest.fixture(scope="module")
def shell():
    shell = InteractiveShell.instance()
    load_ipython_extension(shell)
    yield shell
    InteractiveShell.clear_instance()


def test_the_cell_magic_runs_the_cell_and_returns_the_doctor(shell):
    result = shell.run_cell(f"%%doctor\nnumbers = !echo 7\n{FAULTY}")
    result.raise_error()
    assert [finding.code for finding in result.result.findings] == ["missing-zero-grad"]
    assert shell.user_ns["numbers"] == ["7"]
    assert "line 11" in result.result.findings[0].where
    assert result.result.findings[0].line == 11
    assert result.result.findings[0].where.endswith(": loss.backward()")
    assert isinstance(shell.user_ns["model"], nn.Linear)
    cured = shell.run_cell(f"%%doctor\n{FIXED}")
    assert cured.result.findings == []


def test_the_cell_magic_shows_the_card_and_then_the_cells_own_error(shell, capsys):
    result = shell.run_cell(f"%%doctor\n{FAULTY}\nraise ValueError('stop here')")
    assert isinstance(result.error_in_exec, ValueError)
    output = capsys.readouterr().out
    assert "missing-zero-grad" in output
    assert output.index("ended with ValueError, and there is 1 problem") < output.rindex("stop here")
    assert shell.run_cell(f"%%doctor harmless\n{FIXED}").result.findings == []


def test_the_cell_magic_names_an_unknown_word(shell, capsys):
    result = shell.run_cell("%%doctor quietly\npass")
    assert isinstance(result.error_in_exec, ValueError)
    assert "got 'quietly'" in str(result.error_in_exec)
