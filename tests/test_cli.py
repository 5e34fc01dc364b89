"""The loop as a command, in this process and for real in others."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from course_utils import checkpoint
from course_utils.__main__ import main
from course_utils.data import load, seed_everything
from course_utils.models import make_model
from course_utils.training import Trainer

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["train", "--device", "cpu", "--epochs", "2", "--log-every", "10"]


def test_help_names_every_option_with_words_and_examples(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--data", "--model", "--optimizer", "--lr", "--momentum", "--epochs", "--seed", "--run-dir"):
        # An option and its explanation, on one line or with the line broken between them.
        assert re.search(rf"^  {option}\b.*\n?\s+\S", shown, re.MULTILINE), option
    for word in (
        "--resume",
        "--precision",
        "--accumulate",
        "torchrun --nproc-per-node 2",
        "examples:",
        "digits, mnist",
    ):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_command_trains_as_the_trainer_does(tmp_path, capsys):
    options = ["--optimizer", "sgd", "--lr", "0.05", "--momentum", "0.9", "--seed", "3", "--run-dir", str(tmp_path)]
    assert main([*QUICK, *options]) == 0
    shown = capsys.readouterr().out
    assert "mlp with 8,970 parameters on 1,437 rows of digits: 23 batches an epoch, cpu, fp32" in shown
    assert re.search(r"step 23/46  loss \d\.\d+  valid loss \d\.\d+  accuracy 0\.\d+\nstep 46/46 ", shown)
    assert re.search(r"done: 46 steps, best accuracy 0\.\d+ after step \d+", shown)
    seed_everything(3)
    model = make_model("mlp")
    data = load(seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    history = Trainer(model, optimizer, torch.nn.CrossEntropyLoss(), device="cpu", progress=False, log_every=10).fit(
        data.train, data.valid, num_epochs=2
    )
    state = checkpoint.load(tmp_path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state["model"].items())
    assert state["history"]["valid_accuracy"] == history.valid_accuracy
    assert state["made_with"]["data"] == "digits"
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_every_option_reaches_the_run(tmp_path):
    options = [
        "--model",
        "cnn",
        "--optimizer",
        "adamw",
        "--lr",
        "0.002",
        "--weight-decay",
        "0.1",
        "--schedule",
        "cosine",
    ]
    options += ["--batch-size", "128", "--accumulate", "2", "--max-grad-norm", "1.5", "--precision", "bf16"]
    options += ["--on-nonfinite", "skip", "--grad-norm", "--checkpoint-every", "2", "--quiet", "--log-every", "3"]
    assert main([*QUICK, *options, "--run-dir", str(tmp_path)]) == 0
    state = checkpoint.load(tmp_path)
    kept = state["made_with"]
    assert (kept["model"], kept["optimizer"], kept["lr"], kept["weight_decay"]) == ("CNN", "AdamW", 0.002, 0.1)
    assert (kept["batch_size"], kept["accumulation_steps"], kept["max_grad_norm"]) == (128, 2, 1.5)
    assert (kept["precision"], kept["on_nonfinite"], kept["scheduler"]) == ("bf16", "skip", "CosineAnnealingLR")
    # 12 batches, two a step: 6 steps an epoch; the last step's lr is one before the cosine's zero.
    assert state["step"] == 12
    assert [step for step, _ in state["history"]["grad_norm"]] == [3, 6, 9, 12]
    assert 0 < state["history"]["lr"][-1][1] < 0.0002
    assert not (tmp_path / "checkpoint.previous.pt").exists()


def test_resume_goes_on_and_a_complete_run_says_so(tmp_path, capsys):
    options = ["--run-dir", str(tmp_path / "run")]
    assert main([*QUICK, *options]) == 0
    capsys.readouterr()
    assert main([*QUICK, *options, "--epochs", "3", "--resume"]) == 0
    # One line for the one epoch that was still to do, none for those before.
    assert re.findall(r"^step +(\d+)/69 ", capsys.readouterr().out, re.MULTILINE) == ["69"]
    assert main([*QUICK, "--run-dir", str(tmp_path / "whole"), "--quiet", "--epochs", "3"]) == 0
    one, other = checkpoint.load(tmp_path / "run"), checkpoint.load(tmp_path / "whole")
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert one["history"]["epoch_loss"] == other["history"]["epoch_loss"]
    capsys.readouterr()
    assert main([*QUICK, "--run-dir", str(tmp_path / "run"), "--epochs", "3", "--resume"]) == 0
    assert "has 3 epochs already" in capsys.readouterr().out


def test_a_run_that_torchrun_starts_again_goes_on_by_itself(tmp_path, monkeypatch):
    options = ["--run-dir", str(tmp_path), "--quiet"]
    assert main([*QUICK, *options]) == 0
    assert main([*QUICK, *options, "--epochs", "3"]) == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main([*QUICK, *options, "--epochs", "3"]) == 0
    assert checkpoint.load(tmp_path)["epoch"] == 3


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "digit"], 2, r"unknown data set 'digit': did you mean 'digits'"),
        (["--model", "cn"], 2, r"unknown model 'cn': did you mean 'cnn'"),
        (["--optimizer", "adamm"], 2, r"unknown optimizer 'adamm': did you mean 'adam'"),
        (["--optimizer", "adam", "--momentum", "0.9"], 2, r"unknown option of optimizer 'adam' 'momentum'"),
        (["--lr", "0"], 2, r"lr must be .* above 0, got 0\.0"),
        (["--epochs", "0"], 2, r"num_epochs must be .* got 0"),
        (["--schedule", "cosine", "--epochs", "0"], 2, r"num_epochs must be .* got 0"),
        (["--schedule", "cosine", "--accumulate", "0"], 2, r"accumulation_steps must be .* got 0"),
        (["--batch-size", "9999"], 2, r"batch_size 9999 is larger than the data"),
        (["--device", "tpu"], 2, r"unknown device 'tpu'"),
        (["--precision", "fp16"], 2, r"'fp16' needs a CUDA device"),
        (["--resume"], 2, r"resume=True needs run_dir"),
        (["--run-dir", __file__], 2, r"test_cli\.py' is a file"),
        (["--lr", "1e30"], 1, r"loss of step \d+ is (nan|inf) at lr 1e\+30"),
    ],
)
def test_bad_input_is_one_line_and_a_code(options, code, message, capsys):
    assert main([*QUICK, *options]) == code
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", error)


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "required: COMMAND" in capsys.readouterr().err


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(RuntimeError, match="something else"):
        main(QUICK)


def test_a_lost_process_is_told_in_one_line(monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:554] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(Trainer, "fit", fail)
    assert main(QUICK) == 1
    assert "another process of this run has ended, or torchrun was told to stop: start all again with --resume" in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "course_utils", *QUICK, "--run-dir", str(run_dir)]
    command[command.index("--epochs") + 1] = "100000"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = ""
    while not line.startswith("step"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == ""
    step = int(
        re.search(rf"stopped after step (\d+): go on with --resume --run-dir {re.escape(str(run_dir))}", shown)[1]
    )
    assert checkpoint.load(run_dir)["step"] == step > 0
    rest = checkpoint.load(run_dir)["epoch"] + 2
    assert main([*QUICK, "--run-dir", str(run_dir), "--epochs", str(rest), "--resume", "--quiet"]) == 0
    resumed = checkpoint.load(run_dir)
    assert main([*QUICK, "--run-dir", str(tmp_path / "whole"), "--epochs", str(rest), "--quiet"]) == 0
    whole = checkpoint.load(tmp_path / "whole")
    assert all(torch.equal(value, whole["model"][name]) for name, value in resumed["model"].items())
    assert resumed["history"]["step_loss"] == whole["history"]["step_loss"]
