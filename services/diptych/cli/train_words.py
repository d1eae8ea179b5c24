"""Jobs and their events in words for people, and as plain values for programs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, Final

from diptych.clients.training_values import (
    CheckpointWritten,
    Event,
    JobFault,
    JobProgress,
    JobResult,
    PicturePainted,
    Prepared,
    StateChange,
    TrainingEvent,
    TrainingJob,
    Unknown,
    Warned,
)

__all__ = [
    "as_mapping",
    "bytes_text",
    "duration_text",
    "event_mapping",
    "event_text",
    "progress_text",
    "result_lines",
    "sparkline",
    "state_text",
]

KINDS: Final[dict[type, str]] = {
    StateChange: "state",
    Prepared: "prepared",
    JobProgress: "progress",
    CheckpointWritten: "checkpoint",
    PicturePainted: "picture",
    Warned: "warning",
    JobFault: "error",
    JobResult: "result",
    Unknown: "unknown",
}
"""The words of the ledger's events."""
BARS: Final = "▁▂▃▄▅▆▇█"
DIGEST_LENGTH: Final = 19
_KIBI: Final = 1024
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def event_mapping(told: TrainingEvent) -> dict[str, Any]:
    """Return an event as one JSON object, with its kind."""
    return {
        "number": told.number,
        "at": told.at.isoformat(),
        "attempt": told.attempt,
        "kind": KINDS.get(type(told.event), "unknown"),
        **as_mapping(told.event),
    }


def as_mapping(value: object) -> dict[str, Any]:
    """Return a value of a client's as plain JSON; a number that is not finite is its word."""
    assert is_dataclass(value)
    assert not isinstance(value, type)
    found: dict[str, Any] = _plain(asdict(value))
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of a value
    if isinstance(value, dict):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def event_text(event: Event) -> str:
    """Return what happened as one line."""
    if isinstance(event, StateChange):
        return f"{event.state}: {event.why}" if event.why else event.state
    if isinstance(event, Prepared):
        return (
            f"{event.num_images} images, {event.num_embeddings} embeddings of which "
            f"{event.num_encoded} are new; {event.num_parameters:,} parameters are trained"
        )
    if isinstance(event, JobProgress):
        return progress_text(event)
    if isinstance(event, CheckpointWritten):
        size = bytes_text(event.size_bytes)
        return f"{event.expert}: checkpoint at step {event.step}, {size}"
    if isinstance(event, PicturePainted):
        return f"picture at step {event.step}: {event.label} ({event.digest[:DIGEST_LENGTH]})"
    if isinstance(event, Warned):
        return f"warning: {event.message} ({event.reason})"
    if isinstance(event, JobFault):
        whose = "" if event.is_users else "; not yours to mend, and tried again if it may help"
        return f"error: {event.message} ({event.reason}{whose})"
    if isinstance(event, JobResult):
        return f"made {event.name}"
    return "something that this version has no words for"


def progress_text(told: JobProgress) -> str:
    """Return how far an expert is as one line."""
    rates = ", ".join(_rates(told))
    return (
        f"{told.expert}: step {told.step} of {told.num_steps}, loss {told.loss:.4f}, lr {rates}, "
        f"{told.images_per_s:.1f} images/s"
    )


def _rates(told: JobProgress) -> Sequence[str]:
    """Return the learning rates; one alone where all groups have the same."""
    values = {f"{rate:.2e}" for rate in told.learning_rates.values()}
    if len(values) == 1:
        return list(values)
    return [f"{group} {rate:.2e}" for group, rate in told.learning_rates.items()]


def result_lines(result: JobResult) -> list[str]:
    """Return what a job made and on which timesteps, as lines."""
    lines = [f"{expert}: {digest}" for expert, digest in result.digests.items()]
    for expert, found in result.timesteps.items():
        total, span = sum(found.bins), f"{found.first_timestep}..{found.last_timestep}"
        lines.append(f"{expert}: {total} samples of timesteps {span}  {sparkline(found.bins, 40)}")
    return lines


def state_text(job: TrainingJob) -> str:
    """Return a job's state with what is wished of it."""
    return f"{job.state}, will {job.wish}" if job.wish else job.state


def sparkline(values: Sequence[float], width: int) -> str:
    """Return ``values`` as at most ``width`` bars, each the mean of its share; gaps are blanks."""
    shown = _binned(values, width)
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high / 2 - low / 2  # halves: the difference of two floats may be no float
    shares = ((value / 2 - low / 2) / span if span else 0.0 * value for value in shown)
    return "".join(
        BARS[round(share * (len(BARS) - 1))] if math.isfinite(share) else " " for share in shares
    )


def _binned(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [number * len(values) // width for number in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def bytes_text(size: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if size < _KIBI:
            return f"{size:.0f} {unit}"
        size /= _KIBI
    return f"{size:.1f} GiB"


def duration_text(seconds: float) -> str:
    """Return seconds as people say them."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02} min"
