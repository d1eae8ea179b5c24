"""What a command refuses is told together with what comes after it."""

import pytest

from diptych.cli.refusals import Refusals
from diptych.errors import FieldViolation, InvalidRequest, ModelNotFound


def violation(field: str) -> FieldViolation:
    return FieldViolation(field=field, description="bad")


def fields(error: InvalidRequest) -> list[str]:
    return [found.field for found in error.violations]


def test_every_refusal_is_noted() -> None:
    refusals = Refusals()
    for field in ("size", "output"):
        with refusals.noting():
            raise InvalidRequest([violation(field)])
    assert fields(refusals.with_others(())) == ["size", "output"]


def test_another_error_is_not_noted() -> None:
    with pytest.raises(ModelNotFound), Refusals().noting():
        raise ModelNotFound("absent")


def test_refusals_are_told_with_what_stands_against_the_rest() -> None:
    refusals = Refusals()
    refusals.add("size", "bad")
    with pytest.raises(InvalidRequest) as caught, refusals.told_with():
        raise InvalidRequest([violation("size"), violation("solver")])
    assert fields(caught.value) == ["size", "solver"]


def test_error_without_violations_does_not_hide_the_refusals() -> None:
    refusals = Refusals()
    refusals.add("size", "bad")
    with pytest.raises(InvalidRequest, match=r"^size: bad$"), refusals.told_with():
        raise ModelNotFound("absent")


def test_without_a_refusal_an_error_is_told_as_it_is() -> None:
    with pytest.raises(ModelNotFound), Refusals().told_with():
        raise ModelNotFound("absent")
