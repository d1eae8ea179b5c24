"""A service is started by flags; its exit status says whether starting it again may help."""

from pathlib import Path

import pytest

from diptych.errors import FieldViolation, ModelNotFound, SettingInvalid
from diptych.rpc.command import EXIT_BAD_SETTINGS, EXIT_FAILED, Given, run_service


class Run:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.called: tuple[Path | None, Given] | None = None

    def __call__(self, config: Path | None, given: Given) -> None:
        self.called = (config, given)
        if self.error is not None:
            raise self.error


def start(run: Run, *argv: str) -> int:
    return run_service(
        argv, run, program="x", description="x", integers=("max_rows",), texts=("base",)
    )


def test_flags_become_settings() -> None:
    run = Run()
    assert start(run, "--max-rows", "4", "--base", "none", "--config", "a.yaml") == 0
    assert run.called == (Path("a.yaml"), {"max_rows": 4, "base": None})


def test_number_may_be_none() -> None:
    run = Run()
    start(run, "--max-rows", "none")
    assert run.called == (None, {"max_rows": None})


def test_number_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start(Run(), "--max-rows", "many")
    assert "--max-rows: invalid" in capsys.readouterr().err


def test_flags_that_are_not_given_say_nothing() -> None:
    run = Run()
    start(run)
    assert run.called == (None, {})


def test_bad_settings_have_a_status_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    error = SettingInvalid([FieldViolation(field="port", description="is taken")])
    assert start(Run(error)) == EXIT_BAD_SETTINGS
    assert capsys.readouterr().err == "port: is taken\n"


def test_other_failures_name_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(Run(ModelNotFound("sdxl"))) == EXIT_FAILED
    assert capsys.readouterr().err.startswith("MODEL_NOT_FOUND: ")


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(SystemExit):
        start(Run(), "--bose", "nano")
