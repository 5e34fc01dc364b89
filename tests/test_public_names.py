"""Whatever a public name gets: the call works, or a ValueError or TypeError names the argument or quotes the value.

The values are those of a list (NumPy's and PyTorch's objects, classes, an object whose own methods raise) and numbers,
texts and collections that hypothesis draws, the same ones in every run.
"""

import contextlib
import inspect
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import devices, errors
from course_utils.data import Batches, load
from course_utils.devices import resolve_device, seed_everything
from course_utils.lr import find_lr, iter_sweep_lr, schedules
from course_utils.models import CNN, MLP, make_model
from course_utils.optimizers import make_optimizer
from course_utils.training import BestCheckpoint, EarlyStopping, Trainer


class Evil:
    """Raises in every method that a careless check would call."""

    def _raise(self, *_):
        raise RuntimeError("not even this works")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = __float__ = __index__ = __lt__ = _raise


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [
    *(None, True, False, ..., NotImplemented),
    *(0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, 10**5000),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 1j, Fraction(1, 3)),
    *(
        "",
        " ",
        "auto",
        "cpu",
        "cpu:0",
        "cuda:99",
        "meta",
        "sgd",
        "mlp",
        "fp32",
        "~",
        "\0",
        "\ud800",
        "x" * 10_000,
        b"",
        b"cpu",
    ),
    *([], [1], [0.1, 0.2], (1, 8, 8), (0.9, 0.999), {}, {"lr": 1}, {"params": [3]}, set(), [[]], ["x"], range(5)),
    *(
        np.int64(3),
        np.uint8(0),
        np.float32(0.1),
        np.float64("nan"),
        np.bool_(True),
        np.str_("adam"),
        np.longdouble(0.5),
    ),
    *(
        np.zeros(3),
        np.array(0.1),
        np.array([], int),
        np.array(["sgd", "adam"]),
        np.datetime64("2020"),
        np.zeros((2, 2)),
    ),
    *(torch.tensor(3), torch.tensor(0.1), torch.tensor(True), torch.zeros(0), torch.zeros(3), torch.ones(2, 3)),
    *(
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.complex64),
    ),
    *(
        torch.zeros(2, device="meta"),
        torch.ones(3).to_sparse(),
        torch.ones(3, requires_grad=True),
        torch.tensor([1, -1, 9]),
    ),
    *(torch.zeros(3, dtype=torch.float8_e5m2), torch.full((3,), float("nan")), torch.zeros(3, 2, dtype=torch.bool)),
    *(torch.float32, torch.device("cpu"), torch.device("meta"), torch.Generator(), nn.Linear(2, 2), nn.Linear),
    *(int, str, type, len, print, lambda: None, lambda *_: None, object(), iter([]), Evil(), Evil, nested(10_000)),
]
NUMBERS = st.integers() | st.floats() | st.fractions() | st.complex_numbers()
SIMPLE = NUMBERS | st.text(max_size=20) | st.binary(max_size=20) | st.booleans() | st.none()
VALUES = SIMPLE | st.lists(SIMPLE, max_size=4) | st.tuples(NUMBERS, NUMBERS)


# The calls, by function and argument. Each is otherwise right, and ends where its work would begin.

X, Y = torch.ones(6, 2), torch.arange(6) % 2
LOSS = nn.CrossEntropyLoss()


def weights():
    return [nn.Parameter(torch.ones(2))]


def train_with(**options):
    model = nn.Linear(2, 2)
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss_fn": LOSS}
    return Trainer(**parts | {"device": "cpu", "progress": False} | options)


class Began(Exception):
    """The arguments have passed, and the first batch is asked for."""


class Loader:
    def __len__(self):
        return 3

    def __iter__(self):
        raise Began


def fit_with(**options):
    with contextlib.suppress(Began):
        train_with().fit(**{"train": Loader(), "num_epochs": 1} | options)


def search_with(**options):
    model = nn.Linear(2, 2)
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss_fn": LOSS}
    with contextlib.suppress(Began):
        find_lr(**parts | {"loader": Loader()} | options)


def sweep_with(lrs=(0.1, 0.2), **options):
    iter_sweep_lr(lambda: nn.Linear(2, 2), X, Y, lrs, **{"num_epochs": 1, "batch_size": 2} | options)


CHECKS = (
    errors.positive_integer,
    errors.non_negative_integer,
    errors.valid_seed,
    errors.positive_number,
    errors.non_negative_number,
    errors.decay_rate,
)
TRAINER = list(inspect.signature(Trainer).parameters)
FIT = list(inspect.signature(Trainer.fit).parameters)[1:]
FINDER = list(inspect.signature(find_lr).parameters)
STOPPING = ["monitor", "patience", "min_delta", "mode"]
BEST = ["monitor", "mode", "file", "model"]
SWEEP = ["lrs", "optimizer", "num_epochs", "batch_size", "seed", "momentum", "weight_decay", "nesterov"]
SCHEDULES = {
    schedules.constant: {"step": 3},
    schedules.step_decay: {"step": 3, "every": 2, "factor": 0.5},
    schedules.multistep: {"step": 3, "milestones": [2, 4], "factor": 0.5},
    schedules.exponential: {"step": 3, "factor": 0.5},
    schedules.linear: {"step": 3, "num_steps": 9, "start": 0.5, "final": 0.1},
    schedules.cosine: {"step": 3, "num_steps": 9, "final": 0.1},
    schedules.warmup_cosine: {"step": 3, "num_steps": 9, "num_warmup": 4, "start": 0.5, "final": 0.1},
    schedules.one_cycle: {"step": 3, "num_steps": 9, "warmup": 0.5, "start": 0.5, "final": 0.1},
}
OPTIONS = {
    "sgd": ("momentum", "weight_decay", "nesterov"),
    "rmsprop": ("alpha", "eps", "momentum"),
    "adam": ("betas", "eps", "weight_decay"),
}
CALLS = [
    *((check, "number", lambda value, check=check: check("number", value)) for check in CHECKS),
    (resolve_device, "device", resolve_device),
    (seed_everything, "seed", seed_everything),
    (devices.check_precision, "precision", lambda value: devices.check_precision(value, torch.device("cpu"))),
    (make_optimizer, "optimizer", lambda value: make_optimizer(value, weights(), 0.1)),
    (make_optimizer, "params", lambda value: make_optimizer("sgd", value, 0.1)),
    (make_optimizer, "params", lambda value: make_optimizer("sgd", [value], 0.1)),
    (make_optimizer, "lr", lambda value: make_optimizer("sgd", weights(), value)),
    *(
        (
            make_optimizer,
            option,
            lambda value, name=name, option=option: make_optimizer(name, weights(), 1, **{option: value}),
        )
        for name, options in OPTIONS.items()
        for option in options
    ),
    (make_model, "model", make_model),
    (make_model, "shape", lambda value: make_model("mlp", value)),
    (make_model, "shape", lambda value: make_model("cnn", value)),
    (make_model, "shape", lambda value: make_model("cnn", (1, value, 8))),
    (make_model, "num_classes", lambda value: make_model("mlp", (1, 8, 8), value)),
    (MLP, "hidden", lambda value: MLP(hidden=value)),
    (CNN, "channels", lambda value: CNN(channels=value)),
    (Batches, "x", lambda value: Batches(value, torch.arange(3), batch_size=1)),
    (Batches, "y|labels?", lambda value: Batches(torch.ones(3, 2), value, batch_size=1)),
    (Batches, "batch_size", lambda value: Batches(X, Y, batch_size=value)),
    (Batches, "seed", lambda value: Batches(X, Y, batch_size=1, seed=value)),
    (Batches, "shuffle", lambda value: Batches(X, Y, batch_size=1, shuffle=value)),
    (Batches, "transform", lambda value: Batches(X, Y, batch_size=1, transform=value)),
    (Batches, "epoch", lambda value: Batches(X, Y, batch_size=1).set_epoch(value)),
    (load, "data set", load),
    *(
        (load, name, lambda value, name=name: load(**{name: value}))
        for name in ("batch_size", "seed", "device", "root")
    ),
    *((Trainer, name, lambda value, name=name: train_with(**{name: value})) for name in TRAINER),
    (Trainer, "callbacks", lambda value: train_with(callbacks=[value])),
    (Trainer.load_state_dict, "state", lambda value: train_with().load_state_dict(value)),
    *((Trainer.fit, name, lambda value, name=name: fit_with(**{name: value})) for name in FIT),
    *(
        (EarlyStopping, name, lambda value, name=name: EarlyStopping(**{"patience": 1} | {name: value}))
        for name in STOPPING
    ),
    *((BestCheckpoint, name, lambda value, name=name: BestCheckpoint(**{name: value})) for name in BEST),
    *((find_lr, name, lambda value, name=name: search_with(**{name: value})) for name in FINDER),
    *((iter_sweep_lr, name, lambda value, name=name: sweep_with(**{name: value})) for name in SWEEP),
    *(
        (schedule, name, lambda value, schedule=schedule, right=right, name=name: schedule(**right | {name: value}))
        for schedule, right in SCHEDULES.items()
        for name in right
    ),
]


@pytest.mark.parametrize(
    ("name", "call"), [pytest.param(name, call, id=f"{what.__name__}-{name}") for what, name, call in CALLS]
)
def test_a_call_works_or_its_error_names_the_argument(name, call):
    def try_one(value):
        try:
            call(value)
        except (ValueError, TypeError) as error:
            said = str(error)
            assert re.search(rf"\b({name})\b", said) or errors.quoted(value) in said, said
            assert len(said) < 1000

    for value in ODD:
        try_one(value)
    settings(derandomize=True, deadline=None, database=None, max_examples=30)(given(VALUES)(try_one))()
