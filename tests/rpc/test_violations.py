"""Findings name the field, the value and the limit, and are all told at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InvalidRequest
from diptych.rpc.violations import Violations, shown


def descriptions(found: Violations) -> list[str]:
    return [violation.description for violation in found.found]


@given(st.integers(), st.integers(-5, 5))
def test_integer_is_brought_within_its_bounds(value: int, low: int) -> None:
    assert low <= Violations().integer("n", value, low, low + 3) <= low + 3


@given(st.integers(1, 9))
def test_integer_within_its_bounds_is_kept_without_a_finding(value: int) -> None:
    found = Violations()
    assert (found.integer("n", value, 1, 9), bool(found)) == (value, False)


def test_integer_over_the_limit_is_told_with_the_limit() -> None:
    found = Violations()
    found.integer("n", 12, 1, 9)
    assert descriptions(found) == ["12 exceeds the limit of 9"]


@given(st.floats())
def test_number_is_finite_and_within_its_bounds(value: float) -> None:
    assert 0.0 <= Violations().number("x", value, 0.0, 1.0) <= 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.1])
def test_number_outside_is_told_with_its_bounds(value: float) -> None:
    found = Violations()
    found.number("x", value, 0.0, 1.0)
    assert descriptions(found) == [f"{value} is not in [0, 1]"]


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, -1.0, 2.0])
def test_inner_fraction_excludes_its_ends(value: float) -> None:
    found = Violations()
    found.inner_fraction("b", value)
    assert found


def test_unknown_name_is_told_with_the_known_ones() -> None:
    found = Violations()
    found.name("solver", "eular", ("euler", "heun"))
    assert descriptions(found) == ["'eular' is not one of euler, heun"]


def test_text_is_measured_in_bytes() -> None:
    found = Violations()
    found.text("p", "é" * 5, 9)
    assert descriptions(found) == ["10 bytes exceed the limit of 9"]


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u3000"])
def test_required_text_must_not_be_blank(text: str) -> None:
    found = Violations()
    found.text("p", text, 100, required=True)
    assert found


def test_everything_found_is_raised_at_once() -> None:
    found = Violations()
    found.add("a", "bad")
    found.add("b", "worse")
    with pytest.raises(InvalidRequest, match="a: bad; b: worse"):
        found.raise_if_any()


def test_nothing_found_raises_nothing() -> None:
    Violations().raise_if_any()


def test_long_text_is_shown_short() -> None:
    assert len(shown("x" * 1000)) < 100
