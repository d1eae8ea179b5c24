"""What happened to a job, in order: values that the worker tells and that clients watch."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

__all__ = ["Event", "EventKind", "Told"]


class EventKind(enum.StrEnum):
    """What an event tells; its ``data`` holds the fields that are named here."""

    STATE = "state"
    """``state`` and, where there is one, ``why``."""
    PREPARED = "prepared"
    """``num_images``, ``num_embeddings``, ``num_encoded``, ``num_parameters``."""
    PROGRESS = "progress"
    """``expert``, ``step``, ``num_steps``, ``epoch``, ``loss``, ``lr`` by group, ``grad_norm``,
    ``images_per_s``, ``memory_bytes``."""
    CHECKPOINT = "checkpoint"
    """``expert``, ``step``, ``digest``, ``size_bytes``."""
    PICTURE = "picture"
    """``digest``, ``label``, ``step``."""
    WARNING = "warning"
    """``reason`` and ``message``."""
    ERROR = "error"
    """``reason``, ``message`` and whether it is the ``user``'s to mend."""
    RESULT = "result"
    """``name``, ``digests`` by expert, ``timesteps``: by expert the number of trained samples by
    timestep, in ``bins`` of ``bin_width``, with ``first`` and ``last``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event as a worker tells it."""

    kind: EventKind
    data: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Plain JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as the ledger keeps it."""

    number: int
    """From 1, without gaps, in the order in which the ledger took them."""
    kind: EventKind
    at: datetime
    """In UTC, by the ledger's clock."""
    attempt: int
    """Which start of the job's worker told it, from 1; 0 is the control plane before any."""
    data: Mapping[str, object]
