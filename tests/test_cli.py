"""The loop as a command, in this process and for real in others."""

import errno
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import course_utils.__main__ as command
from course_utils.__main__ import main
from course_utils.data import load
from course_utils.devices import seed_everything
from course_utils.lr import find_lr
from course_utils.lr.finder import rising_rates, suggest
from course_utils.lr.schedules import one_cycle
from course_utils.models import make_model
from course_utils.training import Trainer, checkpoint

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["train", "--device", "cpu", "--epochs", "2", "--log-every", "10"]


def test_help_names_every_option_with_words_and_examples(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    options = "--data --model --optimizer --lr --momentum --schedule --epochs --patience --seed --run-dir --keep-best"
    for option in options.split():
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
    assert "mlp with 8,970 parameters on 1,437 rows of digits: 23 batches per epoch, cpu, fp32" in shown
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


def test_every_option_reaches_the_run(tmp_path, monkeypatch):
    asked = {}

    class Recorded(Trainer):
        def __init__(self, *parts, **options):
            asked.update(options)
            super().__init__(*parts, **options)

    monkeypatch.setattr(command, "Trainer", Recorded)
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
    options += ["--checkpoint-every-steps", "5", "--checkpoint-every-seconds", "0.5", "--patience", "4", "--keep-best"]
    assert main([*QUICK, *options, "--run-dir", str(tmp_path)]) == 0
    state = checkpoint.load(tmp_path)
    kept = state["made_with"]
    assert (kept["model"], kept["optimizer"], kept["lr"], kept["weight_decay"]) == ("CNN", "AdamW", 0.002, 0.1)
    assert (kept["batch_size"], kept["accumulation_steps"], kept["max_grad_norm"]) == (128, 2, 1.5)
    assert (kept["precision"], kept["on_nonfinite"], kept["schedule"]) == ("bf16", "skip", "cosine")
    # 12 batches, two a step: 6 steps an epoch; the last step's lr is one before the cosine's zero.
    assert state["step"] == 12
    assert [step for step, _ in state["history"]["grad_norm"]] == [3, 6, 9, 12]
    assert 0 < state["history"]["lr"][-1][1] < 0.0002
    saves = [asked[name] for name in ("checkpoint_every", "checkpoint_every_steps", "checkpoint_every_seconds")]
    assert saves == [2, 5, 0.5]
    early, best = asked["callbacks"]
    assert (early.monitor, early.patience, best.monitor) == ("valid_loss", 4, "valid_accuracy")
    assert asked["progress"] is False


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
    assert "already has 3 epochs" in capsys.readouterr().out


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
        (["--optimizer", "adam", "--momentum", "0.9"], 2, r"unknown adam option 'momentum'"),
        (["--lr", "0"], 2, r"lr must be .* above 0, got 0\.0"),
        (["--epochs", "0"], 2, r"num_epochs must be .* got 0"),
        (["--schedule", "cosine", "--epochs", "0"], 2, r"num_epochs must be .* got 0"),
        (["--schedule", "cosine", "--accumulate", "0"], 2, r"accumulation_steps must be .* got 0"),
        (["--batch-size", "9999"], 2, r"batch_size 9999 is larger than the data"),
        (["--device", "tpu"], 2, r"unknown device 'tpu'"),
        (["--precision", "fp16"], 2, r"'fp16' needs a CUDA device"),
        (["--resume"], 2, r"resume=True needs run_dir"),
        (["--keep-best"], 2, r"--keep-best writes best\.pt into the run folder: add --run-dir DIR"),
        (["--patience", "0"], 2, r"patience must be a whole number of at least 1, got 0"),
        (["--checkpoint-every-steps", "0"], 2, r"checkpoint_every_steps must be .* got 0"),
        (["--checkpoint-every-seconds", "0"], 2, r"checkpoint_every_seconds must be .* got 0\.0"),
        (["--run-dir", __file__], 2, r"test_cli\.py' is a file"),
        (["--lr", "1e30"], 1, r"loss of step \d+ is (nan|inf) at lr 1e\+30"),
    ],
)
def test_bad_input_is_one_line_and_a_code(options, code, message, capsys):
    assert main([*QUICK, *options]) == code
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", error)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("constant", [1.0] * 8),
        ("step", [1.0] * 4 + [0.1] * 2 + [0.01] * 2),
        ("linear", [1 - step / 8 for step in range(8)]),
        ("cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("warmup-cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("one-cycle", [one_cycle(step, 8) for step in range(8)]),
    ],
)
def test_every_schedule_sets_the_rate_of_every_step(name, shares, tmp_path):
    options = ["--schedule", name, "--batch-size", "400", "--lr", "0.2", "--log-every", "1", "--quiet"]
    assert main([*QUICK, *options, "--run-dir", str(tmp_path)]) == 0
    assert [lr for _, lr in checkpoint.load(tmp_path)["history"]["lr"]] == pytest.approx(
        [0.2 * share for share in shares]
    )


# Steps of this size change no weight, so the validation loss never improves after the first epoch.
STUCK = ["train", "--device", "cpu", "--lr", "1e-30", "--batch-size", "1437", "--log-every", "1"]


def test_a_plateau_divides_the_rate_by_ten(tmp_path):
    options = ["--schedule", "plateau", "--epochs", "8", "--quiet", "--run-dir", str(tmp_path)]
    assert main([*STUCK, *options]) == 0
    rates = [lr for _, lr in checkpoint.load(tmp_path)["history"]["lr"]]
    assert rates == pytest.approx([1e-30] * 4 + [1e-31] * 3 + [1e-32])


def test_patience_ends_a_run_early_and_again_when_it_is_resumed(tmp_path, capsys):
    options = ["--patience", "2", "--epochs", "100", "--run-dir", str(tmp_path)]
    stopped = r"stopped early, after step 3: valid_loss has not improved on 2\.\d+ for 2 epochs\ndone: 3 steps, best "
    for resume in ([], ["--resume"]):
        assert main([*STUCK, *options, *resume]) == 0
        assert re.search(stopped, capsys.readouterr().out)
    assert main([*STUCK, *options, "--patience", "4", "--resume"]) == 0
    assert "stopped early, after step 5: " in capsys.readouterr().out


def test_the_best_weights_are_kept_in_a_file(tmp_path, capsys):
    options = ["--keep-best", "--lr", "0.5", "--momentum", "0.9", "--epochs", "8", "--run-dir", str(tmp_path)]
    assert main([*QUICK, *options]) == 0
    best = re.search(r"best accuracy (0\.\d+) after step (\d+)", capsys.readouterr().out)
    model, data = make_model("mlp"), load()
    model.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    x, y = data.valid.dataset.tensors
    assert f"{(model(x).argmax(1) == y).float().mean():.4f}" == best[1]
    assert int(best[2]) <= 8 * 23


@pytest.mark.filterwarnings("ignore:the checkpoint of step:RuntimeWarning")
def test_a_failed_last_save_is_an_error(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    assert main([*QUICK, "--run-dir", str(tmp_path), "--quiet"]) == 1
    assert re.fullmatch(
        rf"error: the last checkpoint could not be written to {re.escape(str(tmp_path))} "
        r"\(.*No space left on device\): free some space .* with --resume\n",
        capsys.readouterr().err,
    )


def test_a_save_that_failed_before_the_last_one_is_not(tmp_path, monkeypatch):
    real, failed = checkpoint.write_atomically, []

    def full_once(*arguments, **options):
        if not failed:
            failed.append(True)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **options)

    monkeypatch.setattr(checkpoint, "write_atomically", full_once)
    with pytest.warns(RuntimeWarning, match="could not be written"):
        assert main([*QUICK, "--run-dir", str(tmp_path), "--quiet", "--checkpoint-every-steps", "10"]) == 0
    assert checkpoint.load(tmp_path)["step"] == 46


def test_more_epochs_need_a_constant_rate_or_a_plateau(tmp_path, capsys):
    for name in ("cosine", "step", "plateau"):
        options = ["--run-dir", str(tmp_path / name), "--quiet", "--schedule", name]
        assert main([*QUICK, *options]) == 0
        code = main([*QUICK, *options, "--epochs", "3", "--resume"])
        error = capsys.readouterr().err
        if name == "plateau":
            assert (code, error) == (0, "")
        else:
            assert code == 2
            assert "planned with 2 epochs (46 steps) and would now have 3 epochs (69 steps)" in error
            assert "Keep num_epochs=2" in error
            assert checkpoint.load(tmp_path / name)["step"] == 46


def test_a_run_goes_on_under_its_own_schedule_alone(tmp_path, capsys):
    options = ["--run-dir", str(tmp_path), "--quiet", "--schedule"]
    assert main([*QUICK, *options, "cosine"]) == 0
    assert main([*QUICK, *options, "linear", "--epochs", "3", "--resume"]) == 2
    assert "schedule was 'cosine', is 'linear'" in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("name", ["step", "linear", "cosine", "warmup-cosine", "one-cycle"])
def test_a_run_of_one_or_two_steps_has_a_schedule_too(name, epochs):
    options = ["--schedule", name, "--batch-size", "1437", "--quiet"]
    assert main(["train", "--device", "cpu", "--epochs", str(epochs), *options]) == 0


def test_find_lr_suggests_a_rate_that_can_be_typed_in(capsys):
    assert main(["find-lr", "--device", "cpu", "--optimizer", "adam", "--seed", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "mlp on 1,437 rows of digits, adam: 100 rates from 1e-06 to 10"
    assert re.fullmatch(r"the loss fell from 2\.3\d* to [\d.]+, where the rate was .*", shown[1])
    typed, low, high = re.fullmatch(r"--lr ([\d.e-]+), or from ([\d.e-]+) to ([\d.e-]+)", shown[2]).groups()
    assert float(low) < float(typed) < float(high)
    seed_everything(1)
    model = make_model("mlp")
    optimizer = torch.optim.Adam(model.parameters())
    found = find_lr(model, optimizer, torch.nn.CrossEntropyLoss(), load(seed=1).train)
    assert f"{found.suggestion.point:.2g}" == typed
    assert main([*QUICK, "--optimizer", "adam", "--lr", typed]) == 0


def test_every_option_reaches_the_search(monkeypatch, capsys):
    asked = {}

    def search(model, optimizer, loss_fn, train, **options):
        asked.update(options, batch_size=train.batch_size, momentum=optimizer.defaults["momentum"], model=model)
        return suggest([0.1], [2.3])

    monkeypatch.setattr(command, "find_lr", search)
    options = ["--model", "cnn", "--momentum", "0.5", "--batch-size", "32", "--accumulate", "2", "--steps", "40"]
    options += ["--start", "0.001", "--end", "2", "--max-grad-norm", "1.5", "--precision", "bf16"]
    assert main(["find-lr", "--device", "cpu", *options]) == 1
    assert "error: no suggestion: the search ended within its first steps (1 taken)" in capsys.readouterr().err
    assert type(asked.pop("model")).__name__ == "CNN"
    assert asked == {
        "start": 0.001,
        "end": 2.0,
        "num_steps": 40,
        "accumulation_steps": 2,
        "max_grad_norm": 1.5,
        "precision": "bf16",
        "progress": False,
        "batch_size": 32,
        "momentum": 0.5,
    }


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--start", "0"], 2, r"start must be a finite number above 0, got 0\.0"),
        (["--start", "1", "--end", "0.1"], 2, r"end must be above start, got start=1\.0 and end=0\.1"),
        (["--steps", "5"], 2, r"num_steps must be at least 20, got 5"),
        (["--accumulate", "0"], 2, r"accumulation_steps must be .* got 0"),
        (["--model", "cn"], 2, r"unknown model 'cn': did you mean 'cnn'"),
        (["--end", "0.001"], 1, r"no suggestion: the loss stayed near 2\.3 .*: give a larger end"),
    ],
)
def test_a_search_that_cannot_be_is_one_line_and_a_code(options, code, message, capsys):
    assert main(["find-lr", "--device", "cpu", *options]) == code
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)


def test_a_search_under_torchrun_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["find-lr"]) == 2
    assert "find-lr runs in one process: start it without torchrun" in capsys.readouterr().err


def test_an_interrupted_search_shows_what_it_has_and_ends_with_the_code_of_ctrl_c(monkeypatch, capsys):
    losses = [2.3, *(2.3 - 0.03 * step for step in range(60)), *(0.5 + 0.1 * step for step in range(10))]
    rates = rising_rates(1e-6, 10.0, 100)
    for count in (15, 71):
        monkeypatch.setattr(command, "find_lr", lambda *_, **__: suggest(rates, losses[:count], interrupted=True))  # noqa: B023
        assert main(["find-lr", "--device", "cpu"]) == 130
        shown, error = capsys.readouterr()
        if count == 15:
            assert "error: no suggestion: the search was interrupted" in error
        else:
            assert (error, "--lr 0." in shown) == ("", True)


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
    assert "another process of this run has ended, or torchrun was stopped: start all of them again with --resume" in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"

    def press(lines, step, num_steps, history):
        if step >= 30:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(command._EpochLines, "__call__", press)
        assert main([*QUICK, "--epochs", "100000", "--run-dir", str(run_dir)]) == 130
    shown, error = capsys.readouterr()
    assert error == ""
    assert f"stopped after step 30: continue with --resume --run-dir {run_dir}" in shown
    assert checkpoint.load(run_dir)["step"] == 30
    rest = checkpoint.load(run_dir)["epoch"] + 2
    assert main([*QUICK, "--run-dir", str(run_dir), "--epochs", str(rest), "--resume", "--quiet"]) == 0
    resumed = checkpoint.load(run_dir)
    assert main([*QUICK, "--run-dir", str(tmp_path / "whole"), "--epochs", str(rest), "--quiet"]) == 0
    whole = checkpoint.load(tmp_path / "whole")
    assert all(torch.equal(value, whole["model"][name]) for name, value in resumed["model"].items())
    assert resumed["history"]["step_loss"] == whole["history"]["step_loss"]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_preempted_command_saves_says_how_to_go_on_and_ends_as_an_undisturbed_one(name, code, tmp_path, capsys):
    run_dir = tmp_path / "run"
    options = ["--batch-size", "256", "--momentum", "0.9", "--epochs"]
    arguments = [sys.executable, "-m", "course_utils", *QUICK, *options, "100000", "--run-dir", str(run_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            while not line.startswith("step"):
                assert line, process.stderr.read()
                line = process.stdout.readline()
            process.send_signal(getattr(signal, name))
            shown, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (code, "")
    saved = checkpoint.load(run_dir)
    assert shown.endswith(f"stopped after step {saved['step']}: continue with --resume --run-dir {run_dir}\n")
    rest = str(saved["epoch"] + 2)
    assert main([*QUICK, *options, rest, "--run-dir", str(run_dir), "--resume", "--quiet"]) == 0
    assert main([*QUICK, *options, rest, "--run-dir", str(tmp_path / "whole"), "--quiet"]) == 0
    resumed, whole = checkpoint.load(run_dir), checkpoint.load(tmp_path / "whole")
    assert all(torch.equal(value, whole["model"][name]) for name, value in resumed["model"].items())
    assert resumed["history"]["step_loss"] == whole["history"]["step_loss"]
    assert capsys.readouterr() == ("", "")
