"""The helpers of the checks: what fits is read; for the rest, the message names what it is and what it should be."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch

from course_utils.checks.values import Wrong, choice, compare, number, numbers, same, short, tensor


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2), torch.tensor(2.0, requires_grad=True), np.float32(2)])
def test_a_number_is_read(value):
    assert number(value) == 2.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2", r"returned a str, '2'\. It should return one number"),
        ([2.0], r"returned a list, \[2\.0\]"),
        (True, "returned a bool, True"),
        (torch.ones(3), r"returned a Tensor of shape \(3,\)"),
        (np.ones((2, 1)), r"returned a ndarray of shape \(2, 1\)"),
        (object, "returned a type"),
        (math.nan, "Your answer holds NaN"),
        (torch.tensor(math.nan), "Your answer holds NaN"),
    ],
)
def test_what_is_not_a_number_is_explained(value, words):
    with pytest.raises(Wrong, match=words):
        number(value)


@pytest.mark.parametrize("value", [[1, 2.0], (1.0, torch.tensor(2)), torch.tensor([1.0, 2.0]), np.array([1, 2])])
def test_numbers_are_read(value):
    assert numbers(value) == numbers(value, 2) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, r"returned a float, 1\.0\. It should return a list of numbers"),
        ("12", "returned a str, '12'"),
        ({1: 2}, "returned a dict"),
        (torch.tensor(1.0), r"returned a Tensor, tensor\(1\.\)"),
        (torch.ones(2, 1), "returned a Tensor"),
        ([1.0, None], "Item 1 of your list is None"),
        ([[1.0], 2.0], r"Item 0 of your list is \[1\.0\]"),
        ([1.0, torch.ones(2)], "Item 1 of your list is tensor"),
        ([1.0, math.nan], "Your answer holds NaN"),
        ([1.0], r"Your list has length 1\. It should have length 2"),
    ],
)
def test_what_is_not_a_list_of_numbers_is_explained(value, words):
    with pytest.raises(Wrong, match=words):
        numbers(value, 2)


def test_a_tensor_is_read_detached_in_double_precision():
    read = tensor(torch.ones(2, 3, requires_grad=True), (2, 3))
    assert read.dtype == torch.float64
    assert not read.requires_grad


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(3, 2), r"has shape \(3, 2\)\. It should have shape \(2, 3\): transpose it with \.T"),
        (torch.ones(6), r"has shape \(6,\)\. It should have shape \(2, 3\)\.$"),
        ([[1.0]], r"returned a list, \[\[1\.0\]\]\. It should return a tensor"),
        (torch.full((2, 3), math.nan), "Your answer holds NaN"),
    ],
)
def test_a_tensor_of_another_shape_is_explained_with_both_shapes(value, words):
    with pytest.raises(Wrong, match=words):
        tensor(value, (2, 3))


def test_a_word_must_be_one_of_the_options():
    assert choice("mean", ["sum", "mean"]) == "mean"
    for value, words in (("median", "returned 'median'. It should return 'sum', 'mean' or 'last'"), (3, "returned 3")):
        with pytest.raises(Wrong, match=words):
            choice(value, ["sum", "mean", "last"])


def test_same_means_shape_and_values_within_rounding():
    assert same(1.0, torch.tensor(1.0 + 1e-9, requires_grad=True))
    assert same([1, 2], torch.tensor([1.0, 2.0]))
    assert same([math.inf, math.nan], [math.inf, math.nan])
    assert not same([1.0], [1.0, 1.0])
    assert not same([1.0, 1.0], [1.0, 1.0 + 1e-5])
    assert same([1.0, 1.0], [1.0, 1.0 + 1e-5], rel_tol=1e-4)


def test_a_wrong_value_is_explained_by_the_first_mistake_that_fits():
    typical = [(2.0, "twice"), (3.0, "thrice"), (3.0, "never")]
    compare(1.0, 1.0, typical, "else")
    compare(1.0, 1.0, [(1.0, "a trap: the right value goes first")], "else")
    for value, words in ((2.0, "twice"), (3.0, "thrice"), (4.0, "else")):
        with pytest.raises(Wrong, match=f"^{words}$"):
            compare(value, 1.0, typical, "else")


def test_a_long_value_is_shown_in_one_short_line():
    assert short(torch.zeros(3, 4)) == "a tensor of shape (3, 4)"
    assert short(torch.tensor([[1.0], [2.0]])) == "tensor([[1.], [2.]])"
    assert len(short(list(range(1000)))) == 80
    assert short(namedtuple("Mean", "total count")(1, 2)) == "Mean(total=1, count=2)"
