"""How commands speak: words and progress bars for people, one JSON object for programs.

Errors that the package raises on purpose become one line and an exit code, never a traceback.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from diptych.errors import (
    DiptychError,
    ExpertMissing,
    ExpertsMismatch,
    FieldViolation,
    InvalidArgument,
)

__all__ = ["EXIT_BAD_INPUT", "EXIT_FAILED", "Report", "reporting"]

EXIT_FAILED = 1
"""The request was sound and something else went wrong."""
EXIT_BAD_INPUT = 2
"""The caller must change the command; also what Typer exits with on an unknown flag."""

_BAD_INPUT = (InvalidArgument, ExpertsMismatch, ExpertMissing)
"""What the command asks for is wrong, or does not fit together."""


class Report:
    """One command's voice; answers go to stdout, progress and errors to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Tell a person; programs do not hear it. ``text`` may carry Rich markup."""
        if not self.as_json:
            self.out.print(text)

    def note(self, text: str) -> None:
        """Tell a person what goes on, on stderr, so that stdout stays an answer."""
        if not self.as_json:
            self.err.print(text)

    def answer(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON object of a command that was asked for JSON."""
        if self.as_json:
            typer.echo(json.dumps(value, ensure_ascii=False))

    def progress(self) -> Progress:
        """Return a bar counting steps, gone when done; only a terminal sees it."""
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.err,
            disable=self.as_json or not self.err.is_terminal,
            transient=True,
        )

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner while something of unknown length goes on."""
        if self.as_json:
            yield
        else:
            with self.err.status(text):
                yield

    def fail(self, error: DiptychError, flags: Mapping[str, str]) -> None:
        """Print ``error`` as one line, or as one JSON object, naming flags rather than fields."""
        if self.as_json:
            typer.echo(json.dumps({"error": _as_mapping(error)}, ensure_ascii=False))
            return
        self.err.print(f"[bold red]error:[/] {escape(_as_line(error, flags))}")


@contextmanager
def reporting(*, as_json: bool, flags: Mapping[str, str] | None = None) -> Iterator[Report]:
    """Give a command its voice, and end it with an exit code when it raises a ``DiptychError``.

    Args:
        as_json: Whether the command was called with ``--json``.
        flags: Field path on the wire, or its first part -> the flag that sets it, for messages.
    """
    report = Report(as_json=as_json)
    try:
        yield report
    except DiptychError as error:
        report.fail(error, flags or {})
        bad_input = isinstance(error, _BAD_INPUT)
        raise typer.Exit(EXIT_BAD_INPUT if bad_input else EXIT_FAILED) from error


def _as_line(error: DiptychError, flags: Mapping[str, str]) -> str:
    if not error.violations:
        return " ".join(str(error).split())
    return "; ".join(_violation_line(v, flags) for v in error.violations)


def _violation_line(violation: FieldViolation, flags: Mapping[str, str]) -> str:
    flag = flags.get(violation.field) or flags.get(re.split(r"[.\[]", violation.field)[0])
    name = f"{flag} ({violation.field})" if flag else violation.field
    return f"{name}: {' '.join(violation.description.split())}"


def _as_mapping(error: DiptychError) -> dict[str, Any]:
    return {
        "code": error.code,
        "reason": error.reason,
        "message": str(error),
        "violations": [{"field": v.field, "description": v.description} for v in error.violations],
        "retry_after_s": error.retry_after_s,
    }
