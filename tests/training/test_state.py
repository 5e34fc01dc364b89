"""The state of a run: every part that is missing, damaged or of another run is named before anything is restored."""

import copy
import math
import random

import numpy
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from course_utils.training.state import check_buffers, check_fits, check_state, listed


def make_scheduler(name, optimizer):
    kinds = {
        "step": lambda: lr_scheduler.StepLR(optimizer, 3),
        "milestones": lambda: lr_scheduler.MultiStepLR(optimizer, [2, 4]),
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer),
        "lambda": lambda: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1)),
        "one cycle": lambda: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
        "sequence": lambda: lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.StepLR(optimizer, 3), lr_scheduler.ExponentialLR(optimizer, 0.9)], [5]
        ),
    }
    return kinds[name]()


def place(random_states):
    """A place in the data, as `Passes.state_dict` returns it."""
    start = {"random": random_states, "order": {"a sampler's list": 3}, "workers": False}
    return {"number": 1, "position": 2, "ended": False, "start": start, "now": random_states, "kept": None}


def whole_state(scheduler="step", steps=7):
    """The state of a small run, as `Trainer.fit` saves it."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = make_scheduler(scheduler, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        schedule.step(1.0) if scheduler == "plateau" else schedule.step()
    name, keys, *rest = numpy.random.RandomState(0).get_state()
    generators = {
        "python": random.Random(0).getstate(),
        "generators": [],
        "torch": torch.Generator().get_state(),
        "numpy": [name, torch.from_numpy(keys.astype("int64")), *rest],
    }
    figures = ("step_loss", "epoch_loss", "valid_loss", "valid_accuracy", "lr", "grad_norm", "samples_per_second")
    return {
        "made_with": {"model": "Linear", "lr": 0.1, "betas": (0.9, 0.99), "momentum": 0.9, "max_grad_norm": None},
        "plan": {"num_steps": 20, "num_epochs": 4},
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "loss_fn": {"weight": torch.ones(2)},
        "scaler": {"scale": 1024.0, "growth_interval": 2000, "_growth_tracker": 3},
        "step": 7,
        "epoch": 1,
        "position": 2,
        "epoch_trained": False,
        "skipped_steps": 0,
        "means": {"window": [3.5, 8.0], "epoch": [0.0, 0.0]},
        "history": {name: [(5, 0.5), (7, math.nan)] for name in figures},
        "callbacks": [{"best": 0.5}],
        "passes": [place(generators)],
    }


def changed(where, value):
    """A whole state with one part replaced; a number leads into a list, and `...` as the value removes the part."""
    state = copy.deepcopy(whole_state())
    holder, [*path, last] = state, where
    for key in path:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return state


def test_a_whole_state_passes_and_some_parts_may_be_missing():
    state = whole_state()
    check_state(state)
    for name in ("scheduler", "loss_fn", "passes"):
        check_state(changed([name], ...))
    check_state(changed(["history", "metrics"], {"f1": [(5, 0.25)]}))
    check_state(changed(["plan"], None))
    check_state(changed(["model", "0._extra_state"], {"anything": 1}))
    check_state(changed(["optimizer", "param_groups", 0, "lr"], torch.tensor(0.1)))


PLACE = "passes must be for each process the state of its passes over the data, is "
MISSING = [
    (["made_with"], "made_with is missing"),
    (["plan"], "plan is missing"),
    (["model"], "model is missing"),
    (["optimizer"], r"optimizer\.state is missing; optimizer\.param_groups is missing"),
    (["optimizer", "state"], r"optimizer\.state is missing"),
    (["optimizer", "param_groups"], r"optimizer\.param_groups is missing"),
    (["optimizer", "param_groups", 0], r"optimizer\.param_groups must be a list of dicts with params and lr, is \[\]"),
    (["optimizer", "param_groups", 0, "params"], r"optimizer\.param_groups must be a list of dicts with params and lr"),
    (["optimizer", "param_groups", 0, "lr"], r"optimizer\.param_groups must be a list of dicts with params and lr"),
    (["scaler"], "scaler is missing"),
    (["step"], "step is missing"),
    (["epoch"], "epoch is missing"),
    (["position"], "position is missing"),
    (["epoch_trained"], "epoch_trained is missing"),
    (["skipped_steps"], "skipped_steps is missing"),
    (["means"], r"means\.window is missing; means\.epoch is missing"),
    (["means", "window"], r"means\.window is missing"),
    (["means", "epoch", 0], r"means\.epoch must be a sum and a number of samples, is \[0\.0\]"),
    (["history"], r"history is missing; history\.step_loss is missing"),
    (["history", "lr"], r"history\.lr is missing"),
    (["callbacks"], "callbacks is missing"),
    (["passes", 0], PLACE),
    (["passes", 0, "number"], PLACE),
    (["passes", 0, "now"], PLACE),
    (["passes", 0, "kept"], PLACE),
    (["passes", 0, "start", "order"], PLACE),
    (["passes", 0, "now", "torch"], PLACE),
    (["passes", 0, "now", "generators"], PLACE),
]


@pytest.mark.parametrize(("where", "message"), MISSING)
def test_a_missing_part_is_named(where, message):
    with pytest.raises(ValueError, match=rf"^a run cannot continue from this state: {message}"):
        check_state(changed(where, ...))


WRONG = [
    (["made_with"], [None, 3, [], {"lr": torch.ones(2)}, {1: 2}, {"model": {"a": 1}}], "made_with must be settings by"),
    (
        ["plan"],
        [3, [20, 4], {}, {"num_steps": 20}, {"num_steps": 20, "num_epochs": -1}],
        "plan must be num_steps and nu",
    ),
    (
        ["model"],
        [None, [], "Linear", {"weight": 3}, {"weight": [1.0]}, {1: torch.ones(1)}],
        "model must be tensors by n",
    ),
    (
        ["optimizer", "state"],
        [None, [], {0: 3}, {"a": {}}, {-1: {}}],
        r"optimizer\.state must be a dict for each number",
    ),
    (["optimizer", "param_groups"], [None, {}, [3], [{}], "SGD"], r"optimizer\.param_groups must be a list of dicts"),
    (
        ["optimizer", "param_groups", 0, "lr"],
        [None, "0.1", [0.1], torch.ones(2), -0.1, math.nan, math.inf],
        r"optimizer\.param_groups must be",
    ),
    (
        ["optimizer", "param_groups", 0, "params"],
        [None, 2, ["a"], [-1], [0.0]],
        r"optimizer\.param_groups must be a li",
    ),
    (["scheduler"], [None, 3, [], "StepLR"], "scheduler must be a dict, is"),
    (["loss_fn"], [None, 3, {"weight": 1.0}], "loss_fn must be tensors by name"),
    (["scaler"], [None, 3, [], {"scale": "1024"}, {"scale": None}, {0: 1.0}], "scaler must be numbers by name"),
    (
        ["step"],
        [None, -1, 7.0, "7", True, [7], 2**63, torch.tensor(7)],
        "step must be a whole number of at least 0, is",
    ),
    (["epoch"], [None, -1, 1.0], "epoch must be a whole number of at least 0, is"),
    (["position"], [None, -1, "2"], "position must be a whole number of at least 0, is"),
    (["skipped_steps"], [None, -1, math.nan], "skipped_steps must be a whole number of at least 0, is"),
    (["epoch_trained"], [None, 0, 1, "False"], "epoch_trained must be True or False, is"),
    (["means"], [None, [], 3], r"means\.window is missing"),
    (
        ["means", "window"],
        [None, [], [1.0], [1.0, 2.0, 3.0], ["1", 2.0], (1.0, 2.0)],
        r"means\.window must be a sum and",
    ),
    (["means", "epoch"], [[math.nan, 1.0], [1.0, math.inf], [1.0, None], 3.0], r"means\.epoch must be a sum and"),
    (["history"], [None, []], "history must be figures by name"),
    (["history", "other"], [[], None], "history must be figures by name"),
    (["history", "step_loss"], [None, {}, "abc", [3], [(1,)], [(1, 2, 3)]], r"history\.step_loss must be a list of p"),
    (
        ["history", "lr"],
        [[("1", 0.1)], [(-1, 0.1)], [(1, "0.1")], [(1, None)], [(1.5, 1.0)]],
        r"history\.lr must be a l",
    ),
    (["history", "metrics"], [None, [], {"f1": 3}, {"f1": [(1, "a")]}], r"history\.metrics must be lists of points"),
    (["callbacks"], [None, {}, [3], "abc"], "callbacks must be a list of dicts"),
    (["passes"], [None, {}, [3], []], PLACE),
    (["passes", 0, "position"], [None, -1, 1.0], PLACE),
    (
        ["passes", 0, "now", "torch"],
        [None, torch.ones(3), torch.zeros(3, dtype=torch.uint8)],
        PLACE,
    ),
    (["passes", 0, "ended"], [None, 0], PLACE),
    (["passes", 0, "start"], [None, [], {"random": None}], PLACE),
    (["passes", 0, "start", "random"], [3, {}], PLACE),
    (["passes", 0, "start", "order"], [None, {"a": "b"}], PLACE),
    (["passes", 0, "start", "workers"], [None, 1], PLACE),
    (["passes", 0, "now", "python"], [None, (3, (1, 2), None), [3, [1], None]], PLACE),
    (["passes", 0, "now", "generators"], [None, {}, 3], PLACE),
    (["passes", 0, "now", "numpy"], [None, [], ["MT19937", torch.ones(3), 1, 0, 0.0]], PLACE),
]


@pytest.mark.parametrize(
    ("where", "value", "message"), [(where, value, message) for where, values, message in WRONG for value in values]
)
def test_a_part_of_another_kind_is_named_and_quoted(where, value, message):
    with pytest.raises(ValueError, match=rf"^a run cannot continue from this state: {message}"):
        check_state(changed(where, value))


def test_what_is_no_dict_is_no_state():
    for value in (None, 3, [], "state"):
        with pytest.raises(ValueError, match=r"made_with is missing; plan is missing; .*; \d+ more$"):
            check_state(value)


def test_a_message_names_at_most_ten_parts():
    assert listed(["a"]) == "a"
    assert listed([str(index) for index in range(12)]) == "0; 1; 2; 3; 4; 5; 6; 7; 8; 9; 2 more"


def test_checking_random_states_draws_nothing_and_sets_nothing():
    state = whole_state()
    before = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].tolist()
    check_state(state)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert numpy.random.get_state()[1].tolist() == before[2]


# What has to fit another run.


@pytest.mark.parametrize("scheduler", ["step", "milestones", "plateau", "lambda", "one cycle", "sequence"])
def test_a_run_fits_one_that_is_made_in_the_same_way(scheduler):
    saved, mine = whole_state(scheduler), whole_state(scheduler, steps=0)
    check_fits(saved, mine)
    # Format 1 kept no state of the loss function.
    del saved["loss_fn"]
    check_fits(saved | {"plan": None}, mine)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["scheduler"], ..., "scheduler is missing"),
        (["scheduler", "last_epoch"], ..., r"scheduler\.last_epoch is missing"),
        (["scheduler", "last_epoch"], None, r"scheduler\.last_epoch is None, and 0 here"),
        (["scheduler", "last_epoch"], "7", r"scheduler\.last_epoch is '7', and 0 here"),
        (["scheduler", "_is_initial"], 0, r"scheduler\._is_initial is 0, and False here"),
        (["scheduler", "base_lrs"], [], r"scheduler\.base_lrs is \[\], and \[0\.1\] here"),
        (["scheduler", "base_lrs"], ["0.1"], r"scheduler\.base_lrs\[0\] is '0\.1', and 0\.1 here"),
        (["scaler", "scale"], ..., r"scaler\.scale is missing"),
        (["loss_fn"], ..., "loss_fn is missing"),
        (["loss_fn", "weight"], ..., r"loss_fn\.weight is missing"),
        (["loss_fn", "weight"], torch.ones(3), r"loss_fn\.weight is tensor\(.*\), and tensor\(\[1\., 1\.\]\) here"),
        (["optimizer", "param_groups", 0, "momentum"], ..., r"optimizer\.param_groups\[0\]\.momentum is missing"),
        (["optimizer", "param_groups", 0, "momentum"], "0.9", r"optimizer\.param_groups\[0\]\.momentum is '0\.9', and"),
        (["optimizer", "param_groups", 0, "initial_lr"], ..., r"optimizer\.param_groups\[0\]\.initial_lr is missing"),
        (
            ["optimizer", "param_groups", 0, "params"],
            [0],
            r"optimizer\.param_groups\[0\]\.params is \[0\], and \[0, 1\] here",
        ),
    ],
)
def test_parts_of_another_run_or_with_holes_do_not_fit(where, value, message):
    with pytest.raises(ValueError, match=rf"^the state does not fit this run: {message}"):
        check_fits(changed(where, value), whole_state(steps=0))


def test_a_method_of_another_name_does_not_fit():
    saved, mine = whole_state("plateau"), whole_state("plateau", steps=0)
    saved["scheduler"]["mode"] = "max"
    with pytest.raises(ValueError, match=r"scheduler\.mode is 'max', and 'min' here"):
        check_fits(saved, mine)


def test_a_part_that_this_run_does_not_have_is_named():
    mine = whole_state(steps=0)
    del mine["scheduler"]
    with pytest.raises(ValueError, match="scheduler is missing here"):
        check_fits(whole_state(), mine)


def trained(kind, steps=2, **options):
    model = nn.Linear(3, 2, bias=kind is not torch.optim.Muon)
    optimizer = kind(model.parameters(), lr=0.1, **options)
    for _ in range(steps):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    return optimizer


KINDS = [
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "Muon", "NAdam", "RAdam", "RMSprop"),
    *("Rprop", "SGD"),
]


@pytest.mark.parametrize("name", KINDS)
def test_the_buffers_of_every_optimizer_fit_it(name):
    kind = getattr(torch.optim, name)
    check_buffers(trained(kind).state_dict(), trained(kind, steps=0))
    check_buffers(trained(kind, steps=0).state_dict(), trained(kind))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, "exp_avg"), ..., r"optimizer\.state\[0\]\.exp_avg is missing, of shape \(2, 3\) here$"),
        (
            (1, "exp_avg"),
            torch.ones(3),
            r"optimizer\.state\[1\]\.exp_avg is tensor\(.*, of shape \(2,\) here",
        ),
        ((0, "step"), "7", r"optimizer\.state\[0\]\.step is '7', of shape \(2, 3\) here$"),
        ((0, "step"), torch.tensor(-1.0), r"optimizer\.state\[0\]\.step is tensor\(-1\.\), of shape"),
        ((0, "exp_avg"), None, r"optimizer\.state\[0\]\.exp_avg is None, of shape"),
        ((0, "exp_avg"), {}, r"optimizer\.state\[0\]\.exp_avg is \{\}, of"),
    ],
)
def test_buffers_that_are_missing_or_of_another_kind_are_named(place, value, message):
    saved = copy.deepcopy(trained(torch.optim.Adam).state_dict())
    index, name = place
    if value is ...:
        del saved["state"][index][name]
    else:
        saved["state"][index][name] = value
    with pytest.raises(ValueError, match=f"^the state does not fit this Adam: {message}"):
        check_buffers(saved, trained(torch.optim.Adam, steps=0))


def test_buffers_of_a_parameter_that_is_not_there_do_not_fit():
    saved = copy.deepcopy(trained(torch.optim.Adam).state_dict())
    saved["state"][5] = saved["state"][0]
    with pytest.raises(ValueError, match=r"optimizer\.state\[5\] is for a parameter that is not here$"):
        check_buffers(saved, trained(torch.optim.Adam, steps=0))


def test_groups_may_keep_different_buffers_and_frozen_parameters_none():
    one, two, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [one, frozen], "momentum": 0.9}, {"params": [two]}], lr=0.1)
    (one.sum() + two.sum()).backward()
    optimizer.step()
    check_buffers(optimizer.state_dict(), optimizer)


def test_an_optimizer_from_elsewhere_may_keep_anything():
    class Own(torch.optim.SGD):
        pass

    check_buffers({"state": {0: {"notes": ["a"]}}}, trained(Own, steps=0))
