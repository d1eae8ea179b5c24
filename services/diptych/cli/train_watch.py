"""Following a job: a live view on a terminal, lines elsewhere, JSON lines for programs."""

import json
import math
from collections.abc import Iterable
from typing import Final

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from diptych.cli.report import EXIT_FAILED, Report
from diptych.cli.train_view import JobView
from diptych.cli.train_words import event_mapping, event_text, result_lines
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobProgress, JobResult, StateChange, TrainingEvent

__all__ = ["follow"]

QUIET_S: Final = 10.0
"""Between two lines of progress where there is no terminal."""
REFRESHES_PER_S: Final = 4
INTERRUPTED: Final = 130


def follow(report: Report, client: TrainingClient, job_id: str, *, after: int = 0) -> None:
    """Show a job's events until it has ended; Ctrl-C ends the watching and not the job.

    Raises:
        typer.Exit: With status 1 where it failed or was cancelled.
        DiptychError: What the server raised.
    """
    events = client.watch(job_id, after=after)
    try:
        if report.as_json:
            state = _as_json(events)
        elif report.out.is_terminal:
            state = _live(report, events, JobView(client.get(job_id).name, job_id))
        else:
            state = _lines(report, events)
    except KeyboardInterrupt as error:
        report.note(f"the job goes on; [bold]diptych train watch {escape(job_id)}[/] shows it")
        raise typer.Exit(INTERRUPTED) from error
    if state in {"failed", "cancelled"}:
        raise typer.Exit(EXIT_FAILED)


def _as_json(events: Iterable[TrainingEvent]) -> str:
    """Print each event as a line of JSON; return the state that the job ended in."""
    state = ""
    for told in events:
        typer.echo(json.dumps(event_mapping(told), ensure_ascii=False))
        state = _state(told, state)
    return state


def _live(report: Report, events: Iterable[TrainingEvent], view: JobView) -> str:
    state = ""
    results: list[str] = []
    # A console that wraps: lines that ran over would be drawn again and again.
    console = Console(highlight=False)
    with Live(view, console=console, refresh_per_second=REFRESHES_PER_S):
        for told in events:
            view.take(told)
            state = _state(told, state)
            if isinstance(told.event, JobResult):
                results = result_lines(told.event)
    for line in results:
        report.say(escape(line))
    return state


def _lines(report: Report, events: Iterable[TrainingEvent]) -> str:
    state = ""
    said_at: dict[str, float] = {}
    for told in events:
        state = _state(told, state)
        at = told.at.timestamp()
        if isinstance(told.event, JobProgress):
            is_last = told.event.step >= told.event.num_steps
            if at - said_at.get(told.event.expert, -math.inf) < QUIET_S and not is_last:
                continue
            said_at[told.event.expert] = at
        report.say(f"{told.at:%H:%M:%S}  {escape(event_text(told.event))}")
        if isinstance(told.event, JobResult):
            for line in result_lines(told.event):
                report.say(f"          {escape(line)}")
    return state


def _state(told: TrainingEvent, before: str) -> str:
    return told.event.state if isinstance(told.event, StateChange) else before
