"""The shared sentences of errors: the value is quoted, the way out is named."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from course_utils.errors import (
    check_name,
    decay_rate,
    finite_number,
    non_negative_integer,
    non_negative_number,
    positive_integer,
    positive_number,
    quoted,
    unknown_name,
    valid_seed,
)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamm", "unknown optimizer 'adamm': did you mean 'adam'? known: sgd, adam"),
        ("SGD", "unknown optimizer 'SGD': did you mean 'sgd'? known: sgd, adam"),
        ("zzz", "unknown optimizer 'zzz': known: sgd, adam"),
        (None, "unknown optimizer None: known: sgd, adam"),
    ],
)
def test_unknown_name_suggests_the_nearest_only_where_one_is_near(name, sentence):
    error = unknown_name("optimizer", name, ["sgd", "adam"])
    assert isinstance(error, ValueError)
    assert str(error) == sentence


class Unprintable:
    def __repr__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("adam", "'adam'"),
        ([1, 2], "[1, 2]"),
        (torch.eye(2), "tensor([[1., 0.], [0., 1.]])"),
        ("x" * 200, "'" + "x" * 99 + "…"),
        (Unprintable(), "a value of type Unprintable that cannot be printed"),
    ],
)
def test_a_value_is_quoted_in_a_line(value, text):
    assert quoted(value) == text


def test_an_int_that_python_does_not_print_is_quoted_by_its_type():
    assert quoted(10**5000) == "a value of type int that cannot be printed"
    with pytest.raises(ValueError, match=r"num_epochs must be a whole number below 2\*\*63, got a value of type int"):
        positive_integer("num_epochs", 10**5000)


def test_a_known_name_passes():
    assert check_name("optimizer", "adam", ["sgd", "adam"]) is None


@pytest.mark.parametrize(
    "name", ["adamm", None, ["adam"], {"adam": 1}, np.array(["adam", "sgd"]), torch.zeros(2), 10**9]
)
def test_check_name_refuses_the_rest_and_lists_what_is_known(name):
    with pytest.raises(ValueError, match=r"unknown optimizer .*known: sgd, adam"):
        check_name("optimizer", name, ["sgd", "adam"])


@pytest.mark.parametrize("value", [64, np.int64(64), np.uint8(64)])
@pytest.mark.parametrize("check", [positive_integer, non_negative_integer, valid_seed])
def test_a_whole_number_comes_back_as_pythons_own(check, value):
    result = check("batch_size", value)
    assert result == 64
    assert type(result) is int


NO_WHOLE_NUMBERS = [2.0, "64", True, np.True_, None, float("nan"), np.float32(2), np.array([2]), torch.tensor(2), b"2"]


@pytest.mark.parametrize("value", [0, -3, np.int64(0), *NO_WHOLE_NUMBERS])
def test_positive_integer_refuses_the_rest_and_quotes_it(value):
    message = f"batch_size must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        positive_integer("batch_size", value)


@pytest.mark.parametrize("value", [-1, np.int8(-1), -(10**30), *NO_WHOLE_NUMBERS])
def test_non_negative_integer_refuses_the_rest_and_quotes_it(value):
    with pytest.raises(ValueError, match=re.escape(f"step must be a whole number of at least 0, got {value!r}")):
        non_negative_integer("step", value)


def test_a_count_that_no_loop_reaches_is_refused():
    assert positive_integer("num_epochs", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ValueError, match=r"num_epochs must be a whole number below 2\*\*63, got 9223372036854775808"):
        positive_integer("num_epochs", 2**63)


@pytest.mark.parametrize("value", [0, 2**63 - 1])
def test_a_seed_and_its_sum_with_a_count_are_ones_that_pytorch_takes(value):
    assert torch.Generator().manual_seed(valid_seed("seed", value) + 2**63 - 1).initial_seed() == value + 2**63 - 1


@pytest.mark.parametrize("value", [-1, 2**63, 10**400, *NO_WHOLE_NUMBERS])
def test_other_seeds_are_refused_with_the_range(value):
    with pytest.raises(ValueError, match=re.escape("seed must be a whole number from 0 to 2**63 - 1, got ")):
        valid_seed("seed", value)


@pytest.mark.parametrize("value", [0.1, 3, 1e-300, np.float32(0.1), np.float64(0.1), np.int64(3), Fraction(1, 3)])
@pytest.mark.parametrize("check", [positive_number, non_negative_number])
def test_a_number_comes_back_as_a_float(check, value):
    result = check("lr", value)
    assert result == float(value)
    assert type(result) is float


NO_NUMBERS = [float("nan"), float("inf"), "0.1", True, None, [0.1], 1j, 10**400, torch.tensor(0.1), np.array(0.1)]


@pytest.mark.parametrize("value", [0, 0.0, -0.1, Fraction(1, 10**400), np.float32(0), *NO_NUMBERS])
def test_positive_number_refuses_the_rest_and_quotes_it(value):
    with pytest.raises(ValueError, match=re.escape(f"lr must be a finite number above 0, got {quoted(value)}")):
        positive_number("lr", value)


@pytest.mark.parametrize("value", [-1e-300, -1, *NO_NUMBERS])
def test_non_negative_number_refuses_the_rest_and_quotes_it(value):
    assert non_negative_number("eps", 0) == 0
    with pytest.raises(ValueError, match=re.escape(f"eps must be a finite number of at least 0, got {quoted(value)}")):
        non_negative_number("eps", value)


@pytest.mark.parametrize("value", [1, 1.5, -0.1, np.float32(1), *NO_NUMBERS])
def test_a_decay_rate_is_below_1(value):
    assert (decay_rate("momentum", 0), decay_rate("momentum", np.float64(0.9))) == (0.0, 0.9)
    with pytest.raises(ValueError, match=re.escape(f"momentum must be at least 0 and below 1, got {quoted(value)}")):
        decay_rate("momentum", value)


def test_a_rule_of_ones_own_completes_the_sentence():
    with pytest.raises(ValueError, match=r"share must be a number from 0 to 1, got 2"):
        finite_number("share", 2, "a number from 0 to 1", lambda number: 0 <= number <= 1)
