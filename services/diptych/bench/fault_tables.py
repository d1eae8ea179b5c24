"""What became of disturbed training jobs: a table for people, one JSON object for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.tables import judged, plain_table
from diptych.bench.training_faults import FaultsFound

__all__ = ["faults_as_json", "faults_table"]


def faults_as_json(found: FaultsFound) -> dict[str, Any]:
    """Return the numbers and what follows from them."""
    return asdict(found) | {"holds": found.holds}


def faults_table(found: FaultsFound) -> Table:
    """Return what was done, and how many jobs came to harm; each such number should be 0."""
    title = f"{found.num_jobs} jobs, {found.workers} workers, {found.ledger}, {found.seconds:.0f} s"
    table = plain_table(title, "")
    table.add_row("asked", _counts(found.asked))
    table.add_row("killed or cut", _counts(found.kills))
    table.add_row("attempts", str(found.num_attempts))
    harms = {
        "lost": found.lost,
        "two workers at once": found.overlapped,
        "ended otherwise than asked": found.ended_otherwise,
        "events missing, doubled or out of order": found.misnumbered,
        "results unlike the undisturbed run's": found.unlike,
    }
    for name, count in harms.items():
        table.add_row(name, judged(str(count), good=count == 0))
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
