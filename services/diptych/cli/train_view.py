"""A job as it goes on, on a terminal: its state, and of each expert how far and how well."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diptych.cli.train_words import (
    bytes_text,
    duration_text,
    event_text,
    sparkline,
)
from diptych.clients.training_values import (
    CheckpointWritten,
    JobFault,
    JobProgress,
    JobResult,
    Prepared,
    StateChange,
    TrainingEvent,
    Warned,
)

__all__ = ["JobView"]

NUM_NOTES: Final = 3
"""Warnings and errors that stay in sight."""
NUM_TIMED: Final = 30
"""Reports of progress that the time left is told from."""
MAX_LOSSES: Final = 4096
BAR_WIDTH: Final = 40
SPARK_WIDTH: Final = 48
STYLES: Final = {
    "queued": "yellow",
    "preparing": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "red",
}


@dataclass(slots=True, kw_only=True)
class _Track:
    """One expert's progress; owned by its view."""

    latest: JobProgress
    losses: list[float] = field(default_factory=list)
    """Of all that was told, in order; means of neighbours where that was much."""
    lowest: float = math.inf
    timed: list[tuple[datetime, int]] = field(default_factory=list)
    """When which step was reported, in one attempt."""

    def seconds_left(self) -> float | None:
        """Return how long it takes at the pace of late, None while that is unknown."""
        (first, start), (last, end) = self.timed[0], self.timed[-1]
        if end <= start:
            return None
        pace_s = (last - first).total_seconds() / (end - start)
        return pace_s * (self.latest.num_steps - self.latest.step)


class JobView:
    """What is shown of a job; told by ``take``, rendered by Rich, safe to render in any thread."""

    def __init__(self, name: str, job_id: str) -> None:
        self._title = f"{name}  {job_id}"
        self._state = "queued"
        self._why = ""
        self._attempt = 0
        self._tracks: dict[str, _Track] = {}
        self._prepared = ""
        self._checkpoint = ""
        self._notes: list[tuple[str, str]] = []
        self._result = ""

    def take(self, told: TrainingEvent) -> None:
        """Show an event from now on."""
        event = told.event
        if told.attempt != self._attempt:
            self._attempt = told.attempt
            for track in self._tracks.values():
                track.timed.clear()
        if isinstance(event, StateChange):
            self._state, self._why = event.state, event.why
        elif isinstance(event, JobProgress):
            self._note_progress(event, told.at)
        elif isinstance(event, Prepared):
            self._prepared = event_text(event)
        elif isinstance(event, CheckpointWritten):
            self._checkpoint = event_text(event)
        elif isinstance(event, Warned | JobFault):
            style = "yellow" if isinstance(event, Warned) else "red"
            self._notes = [*self._notes, (event_text(event), style)][-NUM_NOTES:]
        elif isinstance(event, JobResult):
            self._result = event_text(event)

    def __rich_console__(self, _: Console, __: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the view as it is now."""
        yield Group(*self._lines())

    def _note_progress(self, event: JobProgress, at: datetime) -> None:
        track = self._tracks.setdefault(event.expert, _Track(latest=event))
        track.latest = event
        track.losses.append(event.loss)
        track.lowest = min(track.lowest, event.loss)
        if len(track.losses) > MAX_LOSSES:
            pairs = zip(track.losses[::2], track.losses[1::2], strict=False)
            track.losses = [(one + other) / 2 for one, other in pairs]
        track.timed = [*track.timed, (at, event.step)][-NUM_TIMED:]

    def _lines(self) -> Iterator[RenderableType]:
        head = Text.assemble(
            (self._title, "bold"), "  ", (self._state, STYLES.get(self._state, ""))
        )
        if self._why:
            head.append(f"  {self._why}", "dim")
        if self._attempt > 1:
            head.append(f"  attempt {self._attempt}", "dim")
        yield head
        if self._prepared:
            yield Text(self._prepared, "dim")
        for track in tuple(self._tracks.values()):
            yield from self._track_lines(track)
        for text in filter(None, (self._checkpoint, self._result)):
            yield Text(text, "dim" if text is self._checkpoint else "green")
        for text, style in self._notes:
            yield Text(text, style)

    def _track_lines(self, track: _Track) -> Iterator[RenderableType]:
        told = track.latest
        bar = Table.grid(padding=(0, 1))
        left = track.seconds_left() if track.timed and self._state == "running" else None
        done = told.step >= told.num_steps
        when = "done" if done else "" if left is None else f"{duration_text(left)} left"
        bar.add_row(
            Text(told.expert, "bold"),
            ProgressBar(total=max(told.num_steps, 1), completed=told.step, width=BAR_WIDTH),
            Text(f"{told.step}/{told.num_steps}"),
            Text(f"{told.images_per_s:.1f} images/s", "cyan"),
            Text(when),
        )
        yield bar
        loss = Text.assemble(
            "  loss ", (sparkline(track.losses, SPARK_WIDTH), "magenta"), f" {told.loss:.4f}"
        )
        loss.append(f"  lowest {track.lowest:.4f}", "dim")
        yield loss
        rates = ", ".join(f"{group} {rate:.2e}" for group, rate in told.learning_rates.items())
        facts = f"  lr {rates}  gradient {told.grad_norm:.3g}  epoch {told.epoch:.2f}"
        if told.memory_bytes:
            facts += f"  memory {bytes_text(told.memory_bytes)}"
        yield Text(facts, "dim")
