"""A watch shows lines where there is no terminal, and few of them for much progress."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
import typer

from diptych.cli.report import Report
from diptych.cli.train_watch import follow
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobProgress, StateChange, TrainingEvent

START = datetime(2026, 1, 1, tzinfo=UTC)
PROGRESS = JobProgress(
    expert="single",
    step=1,
    num_steps=60,
    epoch=0.0,
    loss=0.5,
    learning_rates={"unet": 1e-4},
    grad_norm=0.5,
    images_per_s=1.0,
    memory_bytes=0,
)


class Told:
    """A client that tells of a job with a step a second."""

    def __init__(self, state: str, *, is_interrupted: bool = False) -> None:
        self._state, self._is_interrupted = state, is_interrupted

    def watch(self, job_id: str, *, after: int) -> Iterator[TrainingEvent]:
        """Yield sixty steps and an end."""
        for number in range(after + 1, 61):
            yield told(number, replace(PROGRESS, step=number))
        if self._is_interrupted:
            raise KeyboardInterrupt
        yield told(61, StateChange(state=self._state, why=""))


def told(number: int, event: JobProgress | StateChange) -> TrainingEvent:
    at = START + timedelta(seconds=number)
    return TrainingEvent(number=number, at=at, attempt=1, event=event)


def client(state: str, *, is_interrupted: bool = False) -> TrainingClient:
    return cast("TrainingClient", Told(state, is_interrupted=is_interrupted))


def test_a_line_of_progress_comes_every_ten_seconds_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    follow(Report(as_json=False), client("succeeded"), "0123")
    steps = [
        line.split("step ")[1].split()[0] for line in capsys.readouterr().out.splitlines()[:-1]
    ]
    assert steps == ["1", "11", "21", "31", "41", "51", "60"]


def test_an_expert_that_is_trained_beside_another_has_lines_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = [
        told(2 * step + place, replace(PROGRESS, expert=expert, step=step))
        for step in range(1, 7)
        for place, expert in enumerate(("base", "refiner"))
    ]
    watched = cast("TrainingClient", SimpleNamespace(watch=lambda *_, **__: iter(events)))
    follow(Report(as_json=False), watched, "0123")
    lines = [line.split()[1:4] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        [f"{expert}:", "step", step] for step in ("1", "6") for expert in ("base", "refiner")
    ]


def test_programs_hear_of_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    follow(Report(as_json=True), client("succeeded"), "0123")
    assert len(capsys.readouterr().out.splitlines()) == 61


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_bad_end_is_status_1(state: str) -> None:
    with pytest.raises(typer.Exit) as caught:
        follow(Report(as_json=False), client(state), "0123")
    assert caught.value.exit_code == 1


def test_interrupting_the_watch_leaves_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        follow(Report(as_json=False), client("", is_interrupted=True), "0123")
    assert caught.value.exit_code == 130
    assert "the job goes on; diptych train watch 0123" in capsys.readouterr().err
