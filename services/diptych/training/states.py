"""The states of a job and the moves between them that are legal."""

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["ENDED", "MOVES", "JobState", "is_legal"]


class JobState(enum.StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    """Waits for an owner: at first, and again after its owner died or it was resumed."""
    PREPARING = "preparing"
    """Its dataset is indexed and its embeddings are made."""
    RUNNING = "running"
    PAUSED = "paused"
    """Stopped at a checkpoint by whoever asked; resuming queues it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Resuming queues it again, from its last checkpoint."""
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""States in which nothing happens by itself any more."""

MOVES: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset(
        {JobState.PREPARING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.PREPARING: frozenset(
        {JobState.RUNNING, JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
}


def is_legal(before: JobState, after: JobState) -> bool:
    """Return whether a job may go from one state to the other."""
    return after in MOVES[before]
