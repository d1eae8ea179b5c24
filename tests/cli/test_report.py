"""Commands speak to people in lines, to programs in one object, and end with the right code."""

import json

import pytest
import typer

from diptych.cli.report import EXIT_BAD_INPUT, EXIT_FAILED, reporting
from diptych.errors import (
    CheckpointInvalid,
    DiptychError,
    Draining,
    ExpertMissing,
    ExpertsMismatch,
    FieldViolation,
    InvalidRequest,
)

BAD_STEPS = InvalidRequest(
    [
        FieldViolation(field="num_steps", description="0 is not in 1..200"),
        FieldViolation(field="shape", description="odd"),
    ]
)


def exit_code_of(error: DiptychError, *, as_json: bool = False) -> int:
    with (
        pytest.raises(typer.Exit) as ended,
        reporting(as_json=as_json, flags={"num_steps": "--steps"}),
    ):
        raise error
    return int(ended.value.exit_code)


@pytest.mark.parametrize(
    "error",
    [
        BAD_STEPS,
        CheckpointInvalid("model", "no config"),
        ExpertsMismatch(field="prediction_type", base="epsilon", refiner="v_prediction"),
        ExpertMissing("refiner"),
    ],
    ids=lambda error: error.reason,
)
def test_bad_input_exits_with_2(error: DiptychError) -> None:
    assert exit_code_of(error) == EXIT_BAD_INPUT


def test_any_other_failure_exits_with_1() -> None:
    assert exit_code_of(Draining()) == EXIT_FAILED


def test_an_error_is_one_line_that_names_flag_field_and_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exit_code_of(BAD_STEPS)
    expected = "error: --steps (num_steps): 0 is not in 1..200; shape: odd\n"
    assert capsys.readouterr().err == expected


def test_an_error_as_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(BAD_STEPS, as_json=True)
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["reason"], len(error["violations"])) == (
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        2,
    )


def test_an_error_with_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(InvalidRequest([FieldViolation(field="x", description="[bold]no[/bold]")]))
    assert "[bold]no[/bold]" in capsys.readouterr().err


def test_json_silences_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(as_json=True) as report:
        report.say("hello")
        report.note("hello")
        report.answer({"ok": True})
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"ok": True}, "")


def test_words_for_people_silence_json(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(as_json=False) as report:
        report.say("hello")
        report.answer({"ok": True})
    assert capsys.readouterr().out == "hello\n"


def test_an_error_nobody_raised_on_purpose_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), reporting(as_json=False):
        raise ZeroDivisionError
