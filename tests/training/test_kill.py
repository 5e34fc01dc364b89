"""A run that is killed again and again ends as one that never was, and TensorBoard shows each step once.

One process imports PyTorch and forks a child for each life of the run; the child trains, and SIGKILL ends it at a
chosen moment within a save, or in the middle of some call that was drawn at random.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has PyTorch loaded")

ROOT = Path(__file__).resolve().parents[2]
# How often the run is killed at random, of how many epochs it is, after how many steps it saves if that is not after
# each epoch, and whether a process loads its data.
RUNS = {
    "4 kills": (4, 24, None, False),
    "6 kills, saves within epochs": (6, 20, 4, False),
    "30 kills": (30, 80, None, False),
    "20 kills, saves within epochs": (20, 50, 4, False),
    "20 kills, a persistent worker": (20, 50, 4, True),
}
SIZES = [pytest.param(run, id=name, marks=[pytest.mark.proof] if run[0] >= 20 else []) for name, run in RUNS.items()]
# Each call of a save that a crash could fall on, and how often it is let through before.
SAVE_CALLS = [("fsync", 0), ("replace", 0), ("replace", 1), ("fsync", 1)]

SERVER = '''
import json, os, random, signal, sys
import numpy, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from course_utils.training import checkpoint
from course_utils.training.tracking import TAGS
from course_utils.training import Trainer

torch.set_num_threads(1)
folder, run, save_calls = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
kills, NUM_EPOCHS, EVERY_STEPS, WORKER = run
# A save after every epoch, also where the disk is slow; or, with those within epochs, no others.
checkpoint.WAIT_FACTOR, checkpoint.LONGEST_WAIT = (1e9, 1e9) if EVERY_STEPS else (0, 0)
LONGEST_LIFE = 200_000  # calls of functions: some ten epochs


def train(run_dir):
    """The whole run, or what is left of it: Adam, dropout, a schedule, accumulation, a shuffling DataLoader."""
    torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    x = torch.randn(60, 6)
    data = TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS * 8)
    trainer = Trainer(
        model, optimizer, nn.CrossEntropyLoss(), scheduler=scheduler, device="cpu", accumulation_steps=2,
        run_dir=run_dir, log_every=5, progress=False, track_grad_norm=True, checkpoint_every_steps=EVERY_STEPS,
    )
    workers = {"num_workers": 1, "persistent_workers": True} if WORKER else {}
    train, valid = DataLoader(data, batch_size=4, shuffle=True, **workers), DataLoader(data, batch_size=30)
    return trainer, trainer.fit(train, valid, num_epochs=NUM_EPOCHS, resume=True)


def live(run_dir, before=lambda: None):
    """Fork a child that trains; return its process id."""
    child = os.fork()
    if not child:
        try:
            before()
            train(run_dir)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    return child


def ended_by(child):
    """Wait for a child and return the signal that ended it, or minus its exit code."""
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def die_in_save(name, let_through):
    """Have the process killed by SIGKILL at the (let_through + 1)-th call of os.fsync or os.replace."""
    inner, calls = getattr(os, name), []

    def call(*arguments):
        calls.append(arguments)
        # The first save of this life is let through: it is the next one that must not be lost either.
        if len(calls) == let_through + 1 + 2:
            if name == "fsync" and not let_through:
                os.truncate(arguments[0], 1000)  # what a crash leaves of a file that is not on the disk yet
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments)

    setattr(os, name, call)


def die_in_call(number):
    """Have the process killed by SIGKILL in the call of this number, from now, of any function of Python or C."""
    left, process = number, os.getpid()

    def count(frame, event, argument):
        nonlocal left
        left -= event in ("call", "c_call")
        if left == 0 and os.getpid() == process:  # a worker counts too
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def read(run_dir):
    events = EventAccumulator(run_dir, size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def saved_step(run_dir):
    state = checkpoint.load(run_dir)
    return state["step"] if state else 0


torch.optim.SGD([torch.zeros(1)], lr=1.0)  # PyTorch imports a good deal with the first optimizer: once is enough
whole_dir, run_dir = folder + "/whole", folder + "/run"
assert ended_by(live(whole_dir)) == 0

moments, deaths, steps = random.Random(0), [], []
for name, let_through in save_calls:
    deaths.append(ended_by(live(run_dir, lambda: die_in_save(name, let_through))))
    steps.append(saved_step(run_dir))
for _ in range(kills):
    # Some are killed while they start, most while they train, and all of them together before the run is over.
    number = moments.randrange(1, LONGEST_LIFE)
    deaths.append(ended_by(live(run_dir, lambda: die_in_call(number))))
    steps.append(saved_step(run_dir))
last = ended_by(live(run_dir))

one, other = checkpoint.load(whole_dir), checkpoint.load(run_dir)
for state in (one, other):
    del state["history"]["samples_per_second"]


def differing(one, other, where=""):
    """The places where two nested states differ by a bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (where, one.keys() ^ other.keys())
        return [each for key in one for each in differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = zip(one, other)
        return [each for index, pair in enumerate(pairs) for each in differing(*pair, f"{where}/{index}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [where]


shown = {}
for name in ("whole", "run"):
    curves = read(f"{folder}/{name}")
    curves.pop("samples_per_second", None)
    shown[name] = curves
print(json.dumps({
    "last": last, "deaths": deaths, "steps": steps, "end": other["step"], "differing": differing(one, other),
    "history": {TAGS[name]: points for name, points in one["history"].items() if points}, "shown": shown,
    "files": sorted(os.listdir(run_dir)),
}))
'''


@pytest.fixture(scope="module", params=SIZES)
def found(request, tmp_path_factory):
    """The run's many lives, and what they left."""
    folder = tmp_path_factory.mktemp("kill")
    script = folder / "server.py"
    script.write_text(SERVER)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps(request.param), json.dumps(SAVE_CALLS)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {
        "stderr": done.stderr,
        "kills": request.param[0],
        "num_epochs": request.param[1],
        "every_steps": request.param[2],
    }


def test_the_run_was_really_killed_again_and_again(found):
    assert found["deaths"] == [9] * (found["kills"] + len(SAVE_CALLS))
    assert found["last"] == 0, found["stderr"]
    # No life loses what an earlier one had saved, and most get further.
    assert found["steps"] == sorted(found["steps"])
    assert len(set(found["steps"])) > found["kills"] // 2
    assert found["steps"][-1] < found["end"]
    assert any(step % 8 for step in found["steps"]) == bool(found["every_steps"])


def test_it_ends_bit_identical_with_the_run_that_never_was(found):
    assert found["end"] == found["num_epochs"] * 8
    assert found["differing"] == []


def test_tensorboard_shows_each_step_exactly_once(found):
    assert found["shown"]["run"].keys() == found["history"].keys() - {"samples_per_second"}
    for tag, points in found["shown"]["run"].items():
        assert [step for step, _ in points] == [step for step, _ in found["history"][tag]], tag
    assert found["shown"]["run"] == found["shown"]["whole"]
    assert len([name for name in found["files"] if name.startswith("events.")]) >= found["kills"] // 2


def test_no_unfinished_file_is_left(found):
    assert [name for name in found["files"] if not name.startswith("events.")] == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "run.lock",
    ]
