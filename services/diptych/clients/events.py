"""What a client hears of its call, as plain values.

Queued comes first, then AdapterProgress where the call waits for adapters, then Started, then any
of Progress, Preview and Picture; Completed is the last. A call that fails raises a
``DiptychError`` instead.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AdapterProgress",
    "Completed",
    "Event",
    "Picture",
    "Preview",
    "Progress",
    "Queued",
    "Resolved",
    "Started",
    "Timings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What the open fields of a call became."""

    request_id: str
    seed: int
    num_images: int
    num_steps: int
    width: int
    height: int
    solver: str
    boundary: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The call is admitted; ``position`` others are before it."""

    position: int
    predicted_s: float
    """Seconds until the last image; 0 where the server has not measured its speed yet."""
    resolved: Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterProgress:
    """An adapter that the call waits for has come further."""

    adapter: str
    """As the call named it."""
    digest: str
    state: str
    """queued, fetching, ready or failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first step begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Image ``image_index`` finished step ``step`` of ``num_steps`` (counted from 1)."""

    image_index: int
    step: int
    num_steps: int
    expert: str
    """base or refiner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A small JPEG of an unfinished image after ``step``."""

    image_index: int
    step: int
    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One finished image, complete and checked against its digest."""

    image_index: int
    seed: int
    width: int
    height: int
    media_type: str
    data: bytes
    """The encoded picture, or for latents their float32 bytes."""
    latents: NDArray[np.float32] | None = None
    """[4, h, w] where the call asked for latents, else None; read-only."""
    family: str = ""
    """Family of the latents."""
    boundary: float | None = None
    """Fraction of the schedule done, of latents."""
    num_steps: int | None = None
    """Steps of the whole schedule, of latents."""
    num_draws: int = 0
    """Noises given to the solver so far, of latents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a call's time went on the server, seconds, and how many texts that took."""

    queue_s: float
    encode_s: float
    base_s: float
    refiner_s: float
    decode_s: float
    total_s: float
    num_texts_encoded: int = 0
    num_texts_cached: int = 0
    """Texts that were embedded before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """Every image was delivered."""

    request_id: str
    timings: Timings


Event = Queued | AdapterProgress | Started | Progress | Preview | Picture | Completed
"""One thing that happened to a call."""
