"""How the commands of ``diptych bench`` show progress and results, and how they end."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from diptych.cli.files import write_whole
from diptych.cli.report import EXIT_FAILED, Report
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["Bar", "JsonPath", "batch_sizes", "counted", "fail_unless", "show"]

T = TypeVar("T")

JsonPath = Annotated[
    Path | None, typer.Option("--json", help="Write the numbers to this JSON file too.")
]


class Bar:
    """A progress bar without a known end; ``advance`` may be called from any thread."""

    def __init__(self, report: Report, label: str) -> None:
        self._progress = report.progress()
        self._progress.start()
        self._task = self._progress.add_task(label, total=None)

    def advance(self) -> None:
        """Count one more."""
        self._progress.advance(self._task)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


def counted(report: Report, items: list[T], label: str) -> Iterable[T]:
    """Yield ``items`` below a bar that counts them."""
    with report.progress() as progress:
        yield from progress.track(items, description=label)


def show(report: Report, table: Table, answer: dict[str, Any], json_path: Path | None) -> None:
    """Print a table, and write the same as JSON if asked to."""
    report.out.print(table)
    if json_path is not None:
        write_whole(json_path, (json.dumps(answer, indent=2) + "\n").encode())


def fail_unless(holds: bool) -> None:
    """End with an exit status that says whether what is promised holds."""
    if not holds:
        raise typer.Exit(EXIT_FAILED)


def batch_sizes(text: str, *, option: str = "--batches") -> tuple[int, ...]:
    """Return the numbers of a comma-separated list.

    Raises:
        InvalidRequest: One of them is not a positive whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        problem = f"expected positive whole numbers between commas, not {text!r}"
        raise InvalidRequest([FieldViolation(field=option, description=problem)])
    return tuple(int(part) for part in parts)
