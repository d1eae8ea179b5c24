"""How commands read a dataset's images: with what is remembered of them, and a bar for each set."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from diptych.cli.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diptych.datasets.facts_cache import FactsCache
    from diptych.datasets.reading import OnProgress

__all__ = ["facts_cache", "reading_progress"]


@contextmanager
def facts_cache(report: Report) -> "Iterator[FactsCache | None]":
    """Give what remembers images between commands, or say why nothing does."""
    from diptych.datasets.facts_cache import FactsCache
    from diptych.inference.settings import load_settings

    path = load_settings().home / "datasets" / "facts.sqlite"
    try:
        cache = FactsCache(path)
    except OSError as error:
        report.note(f"[dim]nothing is remembered of images: {escape(str(error))}[/]")
        yield None
        return
    with cache:
        yield cache


@contextmanager
def reading_progress(report: Report) -> "Iterator[OnProgress]":
    """Show a bar for each dataset."""
    with report.progress() as bar:
        tasks: dict[str, Any] = {}

        def move(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(f"reading {escape(label)}", total=total)
            bar.update(tasks[label], completed=done, total=total)

        yield move
