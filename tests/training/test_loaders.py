"""What the loop expects of loaders and batches, and how a batch reaches the model."""

from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from course_utils.training import loaders
from course_utils.training.loaders import Batch, check_loader, forward, num_batches, prepare, samplers, to_device

X, Y = torch.zeros(3, 2), torch.arange(3)
CPU = torch.device("cpu")


class Stream(IterableDataset):
    def __iter__(self):
        yield from [(torch.zeros(2), 0)] * 3


class Sized(Stream):
    def __len__(self):
        return 3


def test_a_stream_has_no_length_and_needs_steps_per_epoch():
    loader = DataLoader(Stream(), 2)
    assert num_batches(loader) is None
    check_loader("train", loader, steps_per_epoch=5)
    message = r"train has no length \(a DataLoader of Stream\).*fit\(\.\.\., steps_per_epoch=1000\)"
    with pytest.raises(TypeError, match=message):
        check_loader("train", loader)


def test_batches_are_counted():
    assert num_batches([(X, Y)] * 4) == 4
    assert num_batches(DataLoader(Sized(), 2)) == 2
    assert num_batches(DataLoader(TensorDataset(X, Y), 2)) == 2
    check_loader("train", [(X, Y)])


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (TensorDataset(X, Y), TypeError, "train is a TensorDataset, which yields single samples: wrap it"),
        (Stream(), TypeError, "train is a Stream, which yields single samples: wrap it"),
        (iter([(X, Y)]), TypeError, "train must be iterable again and again.* got list_iterator: the batches"),
        (3, TypeError, "train must be iterable again and again, such as a DataLoader, got int"),
        (DataLoader, TypeError, "train must be iterable again and again.* got type"),
        (torch.tensor(3), TypeError, "train must be iterable again and again.* got Tensor"),
        ([], ValueError, "train is empty, 0 batches"),
    ],
)
def test_a_loader_that_cannot_be_trained_on_is_an_error(loader, error, message):
    with pytest.raises(error, match=message):
        check_loader("train", loader, steps_per_epoch=2)


def test_a_pair_of_tensors_is_taken_as_it_is():
    for batch in ((X, Y), [X, Y]):
        inputs, y, rows = prepare("train", batch)
        assert inputs is X
        assert y is Y
        assert rows == 3


@pytest.mark.parametrize(
    ("inputs", "y"),
    [
        ((X, X), Y),
        ([X, X], Y),
        ({"a": X, "mask": None}, Y),
        (X, {"class": Y, "box": (X, X)}),
        # Of a graph, a second input has other rows.
        ((X, torch.zeros(2, 7)), Y),
    ],
)
def test_inputs_and_targets_may_be_nested(inputs, y):
    assert prepare("train", (inputs, y)) == Batch(inputs, y, 3)
    assert prepare("train", {"any": 1}, lambda batch: (inputs, y)) == Batch(inputs, y, 3)


def test_the_rows_of_nested_inputs_are_those_of_the_targets():
    assert prepare("train", ({"nodes": torch.zeros(9, 2)}, Y)).rows == 3


def test_a_mapping_becomes_keywords():
    batch = prepare("train", UserDict(ids=X, labels=Y), lambda each: (UserDict(ids=each["ids"]), each["labels"]))
    assert batch == Batch({"ids": X}, Y, 3)
    assert type(batch.inputs) is dict


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (
            {"ids": X, "mask": X, "labels": Y},
            TypeError,
            r"train must yield pairs \(x, y\), got a dict with the keys 'ids', 'mask', 'labels': choose them, "
            r"Trainer\(\.\.\., prepare_batch=lambda batch: \(batch\['ids'\], batch\['labels'\]\)\)$",
        ),
        (
            (X, X, Y),
            TypeError,
            r"got a tuple of length 3: choose them, "
            r"Trainer\(\.\.\., prepare_batch=lambda batch: \(\(batch\[0\], batch\[1\]\), batch\[2\]\)\)$",
        ),
        ({}, TypeError, r"got a dict with the keys $"),
        ((X,), TypeError, r"train must yield pairs \(x, y\), got a tuple of length 1$"),
        (X, TypeError, r"train must yield pairs \(x, y\), got a Tensor$"),
        (("a", Y), TypeError, r"train must yield tensors \(x, y\).*got \(str, Tensor\): use torch.as_tensor"),
        ((X, [0, 1, 2]), TypeError, r"got \(Tensor, list\)"),
        ((X, {}), TypeError, r"got \(Tensor, dict\)"),
        ((X, Y[:2]), ValueError, "train yields 3 rows of x but 2 of y: they must be the same number"),
        ((X[:0], Y[:0]), ValueError, "train yields 0 rows of x but 0 of y"),
        ((X, Y[0]), ValueError, r"train yields single samples, x of shape \(3, 2\) and y of shape \(\)"),
        ((X.sum(), Y), ValueError, r"train yields single samples, x of shape \(\)"),
        (((X, X), Y[:0]), ValueError, r"train yields a batch without rows, of shape \(0,\)"),
        ((X.sum(), (Y,)), ValueError, r"train yields a batch without rows, of shape \(\)"),
    ],
)
def test_a_batch_that_is_not_a_pair_is_an_error(batch, error, message):
    with pytest.raises(error, match=message):
        prepare("train", batch)


@pytest.mark.parametrize("returned", [None, {"x": X}, (X, X, Y)])
def test_prepare_batch_must_return_a_pair(returned):
    with pytest.raises(TypeError, match=r"prepare_batch \(of train\) must return a pair \(inputs, y\), got "):
        prepare("train", (X, Y), lambda batch: returned)


def test_the_model_gets_one_input_several_or_keywords():
    class Model(nn.Module):
        def forward(self, x, other=0):
            return x - other

    model = Model()
    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert forward(model, two) == 2
    assert forward(model, (one, two)) == forward(model, [one, two]) == -1
    assert forward(model, {"other": one, "x": two}) == 1
    packed = pack_sequence([one, two])
    assert forward(nn.Identity(), packed) is packed


def test_what_is_on_the_device_is_not_copied_and_the_structure_is_kept():
    assert to_device(X, CPU) is X
    pair = namedtuple("pair", "x y")
    value = {"a": (X, [Y, None]), "pair": pair(X, 3), "text": "t"}
    moved = to_device(value, CPU)
    assert moved == value
    assert type(moved["pair"]) is pair
    assert moved["a"][1][0] is Y
    there = to_device(value, torch.device("meta"))
    assert there["a"][0].device.type == there["a"][1][0].device.type == there["pair"].x.device.type == "meta"


def test_what_moves_itself_is_moved():
    packed = pack_sequence([torch.zeros(2), torch.zeros(1)])
    assert type(to_device((packed, X), CPU)[0]) is type(packed)


def test_samplers_that_wrap_others_are_found():
    class Wrapper:
        def __init__(self, sampler):
            self.sampler = sampler

        def __len__(self):
            return 3

        def __iter__(self):
            return iter(self.sampler)

    inner = [0, 1, 2]
    outer = Wrapper(Wrapper(inner))
    loader = DataLoader(TensorDataset(X, Y), 2, sampler=outer)
    assert [id(each) for each in samplers(loader)] == [
        id(each) for each in (outer, loader.batch_sampler, outer.sampler, inner)
    ]
    assert samplers([(X, Y)]) == []


def test_the_number_of_the_epoch_reaches_loader_sampler_and_data_set():
    class Counting(Dataset):
        epoch = None

        def __len__(self):
            return 3

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(range(3))

    data, sampler = Counting(), Counting()
    loaders.set_epoch(DataLoader(data, 2, sampler=sampler), 4)
    assert data.epoch == sampler.epoch == 4
