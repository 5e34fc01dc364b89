"""The passes over a loader: a resumed run takes the batches, and draws the numbers, of a run without a break."""

import io
import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from course_utils.data import Batches
from course_utils.training.distributed import Shard
from course_utils.training.loaders import prepare
from course_utils.training.passes import Passes
from course_utils.training.rng import generators

ROWS, SIZE = 10, 3  # three batches of 3 rows and one of 1
BY_ROW = TensorDataset(torch.arange(float(ROWS))[:, None], torch.arange(ROWS))


def passes(loader, *others):
    return Passes(loader, partial(prepare, "train"), others=others)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def model_draws():
    """Draw as a dropout does between two batches; return the numbers."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seen(batches):
    return [(batch.inputs.flatten().tolist(), batch.y.tolist()) for batch in batches]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(make, breaks, *, takes=11, n=2, between=lambda loader: None):
    """Return what a run takes and draws if it is broken off, and resumed from a file, before each take in `breaks`."""
    seed_all(1)
    loader = make()
    one, taken = passes(loader), []
    for number in range(takes):
        if number in breaks:
            state = through_a_file(one.state_dict())
            seed_all(1000 + number)
            loader = make()
            one = passes(loader)
            one.load_state_dict(state)
        taken.append((seen(one.take(n)), model_draws(), one.number, one.position))
        between(loader)
    return taken


def assert_exact(make, *, breaks=range(11), **options):
    __tracebackhide__ = True
    whole = run(make, (), **options)
    assert len({row for batches, *_ in whole for _, y in batches for row in y}) > 1
    for each in breaks:
        assert run(make, {each}, **options) == whole, f"broken off before take {each}"
    return whole


class Drawing(Dataset):
    """Adds noise from all global generators and from those that it holds."""

    def __init__(self):
        self.noise = [np.random.default_rng(0), random.Random(0), torch.Generator().manual_seed(0)]

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        numpy, python, torches = self.noise
        noise = numpy.random() + python.random() + torch.rand(1, generator=torches) + sum(model_draws())
        return noise + row, torch.tensor(row)


class Order:
    """A sampler, or a loader's order: `draw` makes it from a generator that the object holds."""

    def __init__(self, generator, draw):
        self.any_name, self.draw = generator, draw

    def __len__(self):
        return ROWS

    def __iter__(self):
        return iter(self.draw(self.any_name))


class Own:
    """A loader that is not a DataLoader, with a generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        for rows in torch.from_numpy(self.rng.permutation(ROWS)).split(SIZE):
            yield BY_ROW[rows]


def lazily(generator):
    return (generator.randrange(ROWS) for _ in range(ROWS))


def mt19937(draw=lambda g: g.permutation(ROWS).tolist()):
    return Order(np.random.Generator(np.random.MT19937(0)), draw)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def loader(data=BY_ROW, **options):
    options = options if "batch_sampler" in options else {"batch_size": SIZE} | options
    return lambda: DataLoader(data, **{name: make() if callable(make) else make for name, make in options.items()})


class RowsOf(IterableDataset):
    """A stream that draws from a generator that it holds."""

    def __init__(self):
        self.rng = random.Random(0)

    def __iter__(self):
        for _ in range(ROWS):
            row = self.rng.randrange(ROWS)
            yield torch.tensor([row + self.rng.random()]), torch.tensor(row)


def collate_with_noise():
    rng = np.random.RandomState(0)
    return lambda rows: (torch.stack([x for x, _ in rows]) + float(rng.rand()), torch.stack([y for _, y in rows]))


EXACT = {
    "list": lambda: [BY_ROW[rows] for rows in torch.arange(ROWS).split(SIZE)],
    "Batches": lambda: Batches(*BY_ROW.tensors, batch_size=SIZE, seed=3),
    "Shard": lambda: Shard(Batches(*BY_ROW.tensors, batch_size=SIZE), repeat=True),
    "in order": loader(),
    "shuffled": loader(shuffle=True),
    "shuffled, own generator": loader(shuffle=True, generator=seeded),
    "drawing": lambda: DataLoader(Drawing(), SIZE, shuffle=True),
    "collating": lambda: DataLoader(BY_ROW, SIZE, shuffle=True, collate_fn=collate_with_noise()),
    "with replacement": loader(sampler=lambda: RandomSampler(BY_ROW, replacement=True, generator=seeded(1))),
    "subset": loader(sampler=lambda: SubsetRandomSampler(range(2, 8))),
    "weighted": loader(sampler=lambda: WeightedRandomSampler([1.0] * ROWS, 7, generator=seeded(1))),
    "distributed": loader(sampler=lambda: DistributedSampler(BY_ROW, num_replicas=2, rank=1)),
    "batch sampler": loader(batch_sampler=lambda: BatchSampler(RandomSampler(BY_ROW), SIZE, True)),
    "numpy's Generator": loader(
        sampler=lambda: Order(np.random.default_rng(0), lambda g: g.permutation(ROWS).tolist())
    ),
    "numpy's MT19937": loader(sampler=mt19937),
    "numpy's RandomState": loader(
        sampler=lambda: Order(np.random.RandomState(0), lambda g: g.permutation(ROWS).tolist())
    ),
    "random.Random": loader(sampler=lambda: Order(random.Random(0), lambda g: g.sample(range(ROWS), ROWS))),
    "torch.Generator": loader(sampler=lambda: Order(seeded(), lambda g: torch.randperm(ROWS, generator=g).tolist())),
    "lazy": loader(sampler=lambda: Order(random.Random(0), lazily)),
    "batches of an own order": loader(
        batch_sampler=lambda: Order(random.Random(0), lambda g: [g.sample(range(ROWS), 4) for _ in range(3)])
    ),
    "loader of its own": Own,
    "stream": lambda: DataLoader(RowsOf(), SIZE),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_resumed_run_takes_the_batches_and_draws_the_numbers_of_one_without_a_break(name, n):
    assert passes(EXACT[name]()).inexact is None
    assert_exact(EXACT[name], n=n)


def test_a_run_that_breaks_off_before_each_take_is_one_without_a_break():
    make = EXACT["drawing"]
    assert run(make, set(range(11))) == run(make, ())


WORKERS = {
    "new workers": loader(shuffle=True, num_workers=1),
    "new workers, drawing": lambda: DataLoader(Drawing(), SIZE, shuffle=True, num_workers=2),
    "persistent workers": loader(shuffle=True, num_workers=1, persistent_workers=True),
    "persistent workers, own generator": loader(shuffle=True, num_workers=1, persistent_workers=True, generator=seeded),
    "persistent workers, a subset": lambda: DataLoader(
        ConcatDataset([Subset(BY_ROW, range(7)), list(BY_ROW)[7:9]]),
        SIZE,
        shuffle=True,
        num_workers=1,
        persistent_workers=True,
    ),
    "persistent workers, an order that draws": loader(
        num_workers=1, persistent_workers=True, sampler=lambda: Order(random.Random(0), lambda g: g.sample(range(9), 9))
    ),
}


@pytest.mark.parametrize("name", WORKERS)
def test_a_resumed_run_with_workers_is_one_without_a_break(name):
    assert passes(WORKERS[name]()).inexact is None
    # In the first pass, at its end, and in the second.
    assert_exact(WORKERS[name], breaks=(0, 1, 2, 3, 4), takes=8)


def test_the_passes_take_what_a_plain_loop_takes_with_persistent_workers():
    make = WORKERS["persistent workers"]
    seed_all(1)
    plain = make()
    expected = [y.tolist() for _ in range(3) for _, y in plain]
    seed_all(1)
    one = passes(make())
    assert [batch.y.tolist() for _ in range(9) for batch in one.take(2)] == expected


def test_workers_that_run_before_a_run_resumes_change_nothing():
    make = WORKERS["persistent workers"]
    whole = run(make, (), takes=4)
    seed_all(1)
    one = passes(make())
    one.take(2)
    model_draws()
    state = one.state_dict()
    looked_at = make()
    next(iter(looked_at))
    resumed = passes(looked_at)
    resumed.load_state_dict(state)
    assert [seen(resumed.take(2)), model_draws()] == list(whole[1][:2])


def test_a_run_that_loses_its_persistent_workers_is_reported():
    one = passes(WORKERS["persistent workers"]())
    for _ in range(4):
        one.take(2)
    resumed = passes(EXACT["shuffled"]())
    resumed.load_state_dict(one.state_dict())
    assert resumed.inexact.startswith("persistent_workers was not the same when the pass began")


def test_random_rows_in_persistent_workers_are_reported_and_their_order_is_still_exact():
    def make():
        return DataLoader(Drawing(), SIZE, shuffle=True, num_workers=1, persistent_workers=True)

    assert "persistent_workers=False is exact" in passes(make()).inexact

    def rows(taken):
        return [[y for _, y in batches] for batches, *_ in taken]

    whole, broken = run(make, ()), run(make, {4})
    assert rows(whole) == rows(broken)
    assert whole != broken


class WithState:
    """A loader that keeps its place: its state in the middle of a pass, loaded, makes the next pass begin there."""

    def __init__(self, *, at_end):
        self.rng, self.at_end, self.loaded = random.Random(0), at_end, None
        self.place = {"numbers": self.rng.getstate(), "count": 0, "finished": False}

    def __iter__(self):
        start, skip = {"numbers": self.rng.getstate(), "count": 0, "finished": False}, 0
        if self.loaded is not None and not (self.loaded["finished"] and self.at_end == "the next pass"):
            start, skip = self.loaded | {"count": 0}, self.loaded["count"]
            self.rng.setstate(start["numbers"])
        self.loaded, self.place = None, start
        order = self.rng.sample(range(ROWS), ROWS)
        for count, rows in enumerate(torch.tensor(order).split(SIZE), 1):
            self.place = start | {"count": count}
            if count > skip:
                yield BY_ROW[rows]
        self.place = self.place | {"finished": True}

    def state_dict(self):
        return self.place

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.parametrize("at_end", ["the next pass", "an empty rest"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_loader_that_keeps_its_place_continues_there(at_end, n):
    make = partial(WithState, at_end=at_end)
    assert passes(make()).inexact is None
    assert_exact(make, n=n)


class Yielding(RandomSampler):
    """A sampler that keeps its place and draws from an order that nothing else can see."""

    def __iter__(self):
        self.yielded, skip = 0, getattr(self, "next_yielded", 0)
        self.passes = getattr(self, "passes", -1) + (not skip)
        self.next_yielded = 0
        order = np.random.default_rng(self.passes).permutation(ROWS).tolist()
        for place, row in enumerate(order, 1):
            self.yielded = place
            if place > skip:
                yield row

    def state_dict(self):
        return {"yielded": getattr(self, "yielded", 0), "passes": getattr(self, "passes", -1)}

    def load_state_dict(self, state):
        self.next_yielded, self.passes = state["yielded"], state["passes"]


def test_the_place_that_a_stream_keeps_is_not_reported_as_changed():
    class Stream(IterableDataset):
        def __init__(self):
            self.place = 0

        def __iter__(self):
            while self.place < ROWS:
                self.place += 1
                yield BY_ROW[self.place - 1]
            self.place = 0

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]

    one, resumed = (passes(DataLoader(Stream(), SIZE)) for _ in range(2))
    one.take(2)
    resumed.load_state_dict(one.state_dict())
    assert resumed.inexact is None


def test_a_sampler_that_keeps_its_place_continues_there():
    make = loader(sampler=lambda: Yielding(BY_ROW))
    assert passes(make()).inexact is None
    assert_exact(make)
    # Workers read ahead, so that the sampler is further than the run.
    ahead = loader(sampler=lambda: Yielding(BY_ROW), num_workers=1)
    assert "Yielding may keep a state" in passes(ahead()).inexact


class Unknown(IterableDataset):
    def __iter__(self):
        yield from BY_ROW


class Plain:
    def __iter__(self):
        yield BY_ROW[:2]


class Listing(list):
    def __iter__(self):
        return super().__iter__()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("Unknown", lambda: DataLoader(Unknown(), SIZE)),
        ("Plain", Plain),
        ("Listing", lambda: Listing([BY_ROW[:2]])),
        ("Order", loader(sampler=lambda: Order(None, lambda _: np.random.default_rng().permutation(ROWS).tolist()))),
        ("Order", loader(sampler=lambda: Order(random.SystemRandom(), lambda g: g.sample(range(ROWS), ROWS)))),
    ],
)
def test_what_cannot_be_seen_from_outside_is_named(name, make):
    assert passes(make()).inexact == (
        f"{name} may keep a state that cannot be seen from outside, "
        "so its class has to have state_dict() and load_state_dict()"
    )


class Reordering(Order):
    def __init__(self):
        self.rng, self.rows = random.Random(0), list(range(ROWS))

    def __iter__(self):
        self.rng.shuffle(self.rows)
        return iter(self.rows)


@pytest.mark.parametrize(
    ("what", "make", "between"),
    [
        ("the order of a list", EXACT["list"], lambda data: data.append(data.pop(0))),
        ("Reordering.rows", loader(sampler=Reordering), lambda _: None),
        (
            "WeightedRandomSampler.weights",
            loader(sampler=lambda: WeightedRandomSampler([1.0] * ROWS, ROWS)),
            lambda data: data.sampler.weights.mul_(2),
        ),
        (
            "the order of a list",
            lambda: DataLoader(list(BY_ROW), SIZE),
            lambda data: random.Random(0).shuffle(data.dataset),
        ),
    ],
)
def test_an_order_that_its_owner_changed_is_reported_when_the_run_resumes(what, make, between):
    one = passes(data := make())
    for _ in range(5):
        one.take(2)
        between(data)
    resumed = passes(make())
    assert resumed.inexact is None
    resumed.load_state_dict(through_a_file(one.state_dict()))
    assert resumed.inexact.startswith(f"{what} was not the same when the pass began")


# The end of a pass, and errors.


@pytest.mark.parametrize(("n", "lengths"), [(2, [2, 2, 0, 2]), (3, [3, 1, 0, 3, 1, 0]), (9, [4, 0, 4, 0])])
def test_a_pass_ends_once_with_no_batches(n, lengths):
    one = passes(EXACT["in order"]())
    places = []
    for length in lengths:
        assert len(one.take(n)) == length
        places.append((one.number, one.position))
    assert places[:3] in ([(0, 2), (0, 4), (1, 0)], [(0, 3), (0, 4), (1, 0)], [(0, 4), (1, 0), (1, 4)])


def test_an_empty_pass_is_an_error():
    with pytest.raises(ValueError, match="train yielded no batches in pass 1: "):
        passes(iter([])).take(1)
    one = passes(iter([BY_ROW[:2]]))
    assert [len(one.take(1)), len(one.take(1))] == [1, 0]
    with pytest.raises(ValueError, match="train yielded no batches in pass 2: "):
        one.take(1)


def test_the_number_of_the_pass_reaches_loader_and_samplers():
    class Counted(DistributedSampler):
        epochs = ()

        def set_epoch(self, epoch):
            super().set_epoch(epoch)
            self.epochs = (*self.epochs, epoch)

    sampler = Counted(BY_ROW, num_replicas=1, rank=0)
    one = passes(DataLoader(BY_ROW, SIZE, sampler=sampler))
    for _ in range(5):
        one.take(2)
    assert sampler.epochs == (0, 1)


def test_fewer_batches_than_were_taken_are_an_error():
    one = passes(EXACT["in order"]())
    one.take(3)
    other = passes(DataLoader(Subset(BY_ROW, range(4)), SIZE))
    other.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="train yielded only 2 batches in pass 1, but the run has already taken 3"):
        other.take(1)


def test_another_kind_of_loader_is_an_error():
    plain, keeping = passes(EXACT["in order"]()), passes(WithState(at_end="the next pass"))
    plain.take(1)
    keeping.take(1)
    with pytest.raises(ValueError, match=r"the saved run's loader did not keep its place itself.* this one keeps it"):
        keeping.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"the saved run's loader kept its place itself.* this one does not keep it"):
        plain.load_state_dict(keeping.state_dict())
    with pytest.raises(ValueError, match="drew from 1 generators of its loaders, but these loaders hold 0"):
        plain.load_state_dict(passes(EXACT["shuffled, own generator"]()).state_dict())


def test_a_damaged_state_of_a_generator_is_an_error():
    one = passes(EXACT["shuffled, own generator"]())
    state = one.state_dict()
    state["now"]["generators"] = [{"a": 1}]
    with pytest.raises(ValueError, match=r"a Generator of the loaders cannot continue from its saved state \(expected"):
        one.load_state_dict(state)


# Breaks.


class Breaking(Dataset):
    """Raises once, at a row of its choice, after it has drawn random numbers for the rows before."""

    def __init__(self, data, at):
        self.data, self.at, self.count = data, at, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return self.data[index]


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("at", [1, 3, 4, 5, 7, 10, 11, 14, 16, 21])
def test_a_break_while_a_group_is_drawn_changes_nothing(at, resumed):
    def make():
        return DataLoader(Drawing(), SIZE, shuffle=True)

    def interrupted():
        seed_all(1)
        data, taken = Breaking(Drawing(), at), []
        one = passes(DataLoader(data, SIZE, shuffle=True))
        while len(taken) < 8:
            try:
                batches = one.take(2)
            except KeyboardInterrupt:
                if resumed:
                    state = through_a_file(one.state_dict())
                    seed_all(5)
                    one = passes(make())
                    # The wrapped data set holds the same generators.
                    one.load_state_dict(state)
                continue
            taken.append((seen(batches), model_draws(), one.number, one.position))
        return taken

    assert interrupted() == run(make, (), takes=8)


def test_a_break_while_a_group_is_drawn_rewinds_a_loader_that_keeps_itsas_format_2():
    class Fails(WithState):
        fails = 0

        def __iter__(self):
            for batch in super().__iter__():
                self.fails -= 1
                if self.fails == 0:
                    raise RuntimeError("worker exited")
                yield batch

    make = partial(WithState, at_end="the next pass")
    seed_all(1)
    broken, taken = Fails(at_end="the next pass"), []
    one = passes(broken)
    while len(taken) < 8:
        broken.fails = 2 if len(taken) == 1 else 0
        try:
            taken.append((seen(one.take(2)), model_draws(), one.number, one.position))
        except RuntimeError:
            broken.fails = 0
            one.loader.fails = 0
            taken.append((seen(one.take(2)), model_draws(), one.number, one.position))
    assert taken == run(make, (), takes=8)


def test_lost_workers_are_replaced_and_the_place_is_kept():
    make = WORKERS["persistent workers"]
    seed_all(1)
    data, taken = make(), []
    one = passes(data)
    for number in range(8):
        if number in (1, 4):
            for worker in data._iterator._workers:
                worker.terminate()
                worker.join()
            with pytest.raises(RuntimeError, match="exited unexpectedly"):
                one.take(4)
        taken.append((seen(one.take(2)), model_draws(), one.number, one.position))
    assert taken == run(make, (), takes=8)


def test_what_is_shared_with_validation_is_restored_too():
    shared = seeded()
    train, valid = DataLoader(BY_ROW, SIZE), DataLoader(BY_ROW, SIZE, shuffle=True, generator=shared)
    one = passes(train, valid)
    state = one.random_states.get_state()
    first = [y.tolist() for _, y in valid]
    one.random_states.set_state(state)
    assert [y.tolist() for _, y in valid] == first


class Holder:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def augment(self, rows):
        return rows


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rng: Holder(rng=rng),
        lambda rng: Holder(rng=rng).augment,
        lambda rng: partial(max, rng),
        lambda rng: partial(max, key=rng),
        lambda rng: lambda rows: (rows, rng),
        lambda rng: [{"noise": (rng, rng)}],
    ],
)
def test_generators_are_found_where_a_loader_holds_them(wrap):
    rng, other = random.Random(0), seeded()
    data = DataLoader(Subset(Holder(transform=Holder(transforms=wrap(rng))), range(2)), generator=other)
    assert [id(each) for each in generators([data], data)] == [id(other), id(rng)]


def test_only_what_a_loader_holds_is_searched():
    class Running(list):
        def __iter__(self):
            raise AssertionError("the code of a loader was run")

    def never_bound():
        return later

    endless = Holder(own=Running([random.Random(0)]), many=[random.Random(i) for i in range(65)], late=never_bound)
    endless.itself = endless
    assert generators(endless, (random.Random(0) for _ in range(2)), nn.Linear(1, 1), random.SystemRandom()) == []
    if not endless:
        later = 0


# Random states of older checkpoints.


def format_1(loader, start, position):
    """Return the random states as checkpoint format 1 kept them."""

    def own(state):
        return {name: value for name, value in state.items() if name != "generators"} | {"own": state["generators"]}

    return {"epoch": own(start), "now": own(passes(loader).random_states.get_state())}


def as_format_2(random_states, **place):
    """Return the place in the form that `checkpoint.load` gives to that of format 1."""
    start = {"random": random_states["epoch"], "order": {}, "workers": False}
    return place | {"ended": False, "start": start, "now": random_states["now"], "kept": None}


def test_a_run_continues_from_the_states_that_format_1_kept():
    make = EXACT["shuffled, own generator"]
    whole = run(make, ())
    seed_all(1)
    data = make()
    one = passes(data)
    start = one.random_states.get_state()
    for _ in range(2):
        one.take(1)
    # As in `run`, where each take is followed by the model's draws.
    model_draws()
    kept = through_a_file(format_1(data, start, 2))
    seed_all(7)
    resumed = passes(make())
    resumed.load_state_dict(as_format_2(kept, number=0, position=2))
    assert (seen(resumed.take(2)), model_draws()) == whole[1][:2]
    at_end = passes(make())
    at_end.load_state_dict(as_format_2(kept | {"epoch": None}, number=1, position=0))
    assert (at_end.number, at_end.position, len(at_end.take(4))) == (1, 0, 4)


def test_another_thread_may_take_batches():
    one, lengths = passes(EXACT["shuffled"]()), []
    thread = threading.Thread(target=lambda: lengths.append(len(one.take(2))))
    thread.start()
    thread.join()
    assert lengths == [2]
