"""The live view shows where a job is, how well it learns and when it will be done."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rich.console import Console

from diptych.cli.train_view import MAX_LOSSES, JobView
from diptych.clients.training_values import (
    CheckpointWritten,
    Event,
    JobFault,
    JobProgress,
    Prepared,
    StateChange,
    TrainingEvent,
    Warned,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
PROGRESS = JobProgress(
    expert="base",
    step=10,
    num_steps=100,
    epoch=1.5,
    loss=0.5,
    learning_rates={"unet": 1e-4},
    grad_norm=0.5,
    images_per_s=12.0,
    memory_bytes=3 * 2**30,
)


def shown(*events: Event, step_s: float = 2.0, attempt: int = 1) -> str:
    view = JobView("huggy", "0123")
    for number, event in enumerate(events):
        at = START + timedelta(seconds=step_s * number)
        view.take(TrainingEvent(number=number + 1, at=at, attempt=attempt, event=event))
    console = Console(file=io.StringIO(), record=True, width=100, highlight=False)
    console.print(view)
    return console.export_text()


def test_a_new_job_waits() -> None:
    assert shown().split() == ["huggy", "0123", "queued"]


def test_progress_speed_loss_and_rates_are_shown() -> None:
    text = shown(StateChange(state="running", why=""), PROGRESS)
    for part in ("running", "10/100", "12.0 images/s", "0.5000", "unet 1.00e-04", "3.0 GiB"):
        assert part in text, text


def test_time_left_is_told_at_the_pace_of_late() -> None:
    running = StateChange(state="running", why="")
    text = shown(running, PROGRESS, replace(PROGRESS, step=20), replace(PROGRESS, step=30))
    assert "14 s left" in text


def test_nothing_is_said_of_time_before_there_is_a_pace() -> None:
    assert "left" not in shown(StateChange(state="running", why=""), PROGRESS)


def test_both_experts_have_lines_of_their_own() -> None:
    done = replace(PROGRESS, step=100)
    text = shown(StateChange(state="running", why=""), done, replace(PROGRESS, expert="refiner"))
    assert "100/100" in text
    assert "done" in text
    assert "refiner" in text


def test_checkpoints_warnings_and_errors_stay_in_sight() -> None:
    text = shown(
        Prepared(num_images=12, num_embeddings=24, num_encoded=24, num_parameters=3),
        CheckpointWritten(expert="base", step=50, digest="d", size_bytes=2**20),
        Warned(reason="ODD", message="it is [odd]"),
        JobFault(reason="BAD", message="it is bad", is_users=True),
        StateChange(state="failed", why="BAD"),
    )
    for part in ("12 images", "checkpoint at step 50, 1 MiB", "it is [odd] (ODD)", "failed  BAD"):
        assert part in text, text


def test_a_long_job_takes_no_more_memory_than_a_short_one() -> None:
    steps = [replace(PROGRESS, step=1 + number) for number in range(MAX_LOSSES + 10)]
    assert "lowest 0.5000" in shown(*steps)


def test_another_attempt_is_told() -> None:
    assert "attempt 2" in shown(PROGRESS, attempt=2)
