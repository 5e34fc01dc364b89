"""The shared sentences of errors: the value is quoted, the way out is named."""

import re

import pytest

from course_utils.errors import positive_integer, positive_number, unknown_name


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


def test_positive_integer_returns_a_good_value():
    assert positive_integer("batch_size", 64) == 64


@pytest.mark.parametrize("value", [0, -3, 2.0, "64", True, None, float("nan")])
def test_positive_integer_refuses_the_rest_and_quotes_it(value):
    message = f"batch_size must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        positive_integer("batch_size", value)


@pytest.mark.parametrize("value", [0.1, 3, 1e-300])
def test_positive_number_returns_a_good_value_as_a_float(value):
    result = positive_number("lr", value)
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), float("inf"), "0.1", True, None, [0.1]])
def test_positive_number_refuses_the_rest_and_quotes_it(value):
    with pytest.raises(ValueError, match=re.escape(f"lr must be a finite number above 0, got {value!r}")):
        positive_number("lr", value)
