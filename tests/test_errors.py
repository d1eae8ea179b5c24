"""An error says what was, what was expected and the name of the thing, and holds it as data."""

import pytest

from diptych import errors
from diptych.errors import (
    DiptychError,
    ExpertsMismatch,
    ExtraMissing,
    FieldViolation,
    InvalidRequest,
    PickleRefused,
    PromptTooLong,
    QueueFull,
)

CODES = {
    "ABORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
}


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "FieldViolation"])
def test_every_error_has_a_canonical_code(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, DiptychError)
    assert error.code in CODES


def test_all_violations_stand_in_the_message() -> None:
    violations = [FieldViolation(field=name, description="bad") for name in ("a", "b")]
    assert str(InvalidRequest(violations)) == "a: bad; b: bad"


def test_prompt_too_long_names_what_would_be_cut() -> None:
    error = PromptTooLong(field="base.prompt", num_tokens=80, limit=75, cut_text="the end")
    assert str(error) == "base.prompt: 80 tokens exceed the limit of 75; would cut 'the end'"


def test_long_text_that_would_be_cut_is_shown_in_part() -> None:
    error = PromptTooLong(field="base.prompt", num_tokens=999, limit=75, cut_text="x" * 999)
    assert len(str(error)) < 250


def test_retryable_error_says_when() -> None:
    assert QueueFull(waiting=9, limit=8, retry_after_s=1.5).retry_after_s == 1.5


def test_error_about_a_pickle_names_the_file() -> None:
    assert "unet.ckpt is a pickle" in str(PickleRefused("here", "unet.ckpt"))


def test_mismatch_names_both_sides() -> None:
    error = ExpertsMismatch(field="prediction_type", base="epsilon", refiner="v_prediction")
    assert "base 'epsilon', refiner 'v_prediction'" in str(error)


def test_missing_extra_says_how_to_install_it() -> None:
    error = ExtraMissing(extra="inference", needed_for="serving")
    assert str(error) == "serving needs: pip install 'diptych[inference]'"
