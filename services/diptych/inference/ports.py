"""What the engine needs from its surroundings, and the values that cross over.

The engine itself knows no tensors: latents and embeddings pass through it unopened. ``executor``
and ``decoder`` implement these interfaces on a device, ``telemetry`` implements the observer, and
the tests have fakes of all three.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diptych.errors import DiptychError
from diptych.inference.adapter_units import Unit
from diptych.inference.route import Route
from diptych.inference.trajectory import AdapterUse, Expert, ImageRequest

__all__ = [
    "AdapterLoader",
    "Conditioning",
    "Decoder",
    "Executor",
    "Finished",
    "Measurement",
    "Observer",
    "Picture",
    "Placement",
    "Prepared",
    "Row",
]


class Conditioning(Protocol):
    """The embeddings of one request, shared by its images."""

    @property
    def text_lengths(self) -> Mapping[Expert, int]:
        """Return the number of text tokens each expert attends to."""

    @property
    def num_texts_encoded(self) -> int:
        """Return how many texts the encoders read for it."""

    @property
    def num_texts_cached(self) -> int:
        """Return how many texts were embedded before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """An image that gets a slot."""

    slot: int
    request: ImageRequest
    index: int
    """Which of the request's images; its noise is drawn from ``request.seed + index``."""
    route: Route
    conditioning: Conditioning


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trajectory's line in a tick: the slot, and the evaluation of its route to do."""

    slot: int
    position: int
    preview: bool
    """Whether the denoised estimate is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a trajectory leaves: latents on the device, and how often noise was drawn."""

    latents: object
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A unit in host memory, bound to this server's experts; ``value`` is the executor's."""

    num_lines: int
    """Lines of the device it takes: the largest rank of its targets, 0 for tokens alone."""
    size_bytes: int
    """What it takes in host memory."""
    value: object
    token_bytes: int = 0
    """What of that stays there while it is on the device: its learned tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How long a tick took while warming up."""

    expert: Expert
    num_pixels: int
    num_rows: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded image: encoded ``data``, or ``latents`` [4, h, w] float32."""

    width: int
    height: int
    data: bytes = b""
    latents: NDArray[np.float32] | None = None


class Executor(Protocol):
    """Owner of the device; called from the engine's thread except for ``route``."""

    def route(self, request: ImageRequest) -> Route:
        """Check ``request`` and return its route; pure, from any thread.

        Raises:
            InvalidRequest: Something in it cannot be done; every violation is named.
            ExpertMissing: It needs an expert that is not loaded.
        """

    def warm_up(self) -> Sequence[Measurement]:
        """Compile and run what ticks will need; return what they cost."""

    def encode(self, requests: Sequence[ImageRequest]) -> Sequence[Conditioning | DiptychError]:
        """Return the embeddings of each request, or why it has none.

        The adapters of every request are on the device.
        """

    def attach(self, unit: Unit, prepared: Prepared) -> None:
        """Put an adapter on the device; the caller has made room for its lines."""

    def detach(self, unit: Unit) -> None:
        """Take an adapter that nothing runs with off the device."""

    def place(self, placement: Placement) -> None:
        """Fill a slot with an image's first latents; its adapters are on the device."""

    def run(self, expert: Expert, rows: Sequence[Row]) -> Sequence[object | None]:
        """Advance every row by one evaluation, or none of them.

        Returns:
            For each row its denoised estimate [4, h, w] on the device if it asked for one.

        Raises:
            OutOfDeviceMemory: The batch does not fit; no row has changed.
        """

    def take(self, slot: int) -> Finished:
        """Empty ``slot`` and return what its trajectory came to."""

    def release(self, slot: int) -> None:
        """Empty ``slot``; an empty one is ignored."""


class AdapterLoader(Protocol):
    """Brings adapters to host memory; calls back from its own threads, or before it returns."""

    def prepare(
        self,
        unit: Unit,
        uses: tuple[AdapterUse, ...],
        *,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        """Queue the adapters of one unit.

        ``fetching`` hears that their turn has come, ``done`` what came of it.
        """

    def has(self, unit: Unit) -> bool:
        """Return whether a unit is in host memory, so that preparing it takes no time."""

    def in_host(self) -> frozenset[str]:
        """Return the digests of adapters that wait for no fetch, being in host memory."""

    def holds(self, unit: Unit, size_bytes: int) -> None:
        """Note what of a unit that was handed over the engine still has in host memory.

        At first that is all of it, in the end nothing.
        """

    def is_full(self) -> bool:
        """Return whether what the engine has takes all the host memory there is for adapters."""

    def keep(self, use: AdapterUse) -> None:
        """Keep an adapter's file on this machine, so that it is never fetched again."""

    def let_go(self, use: AdapterUse) -> None:
        """Stop to ``keep`` it; one that is not kept is ignored."""

    def stop(self) -> None:
        """Drop what is queued and end the loader's threads."""


class Decoder(Protocol):
    """Turns latents into pictures off the engine's thread; calls back from its own."""

    def decode(
        self,
        latents: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        """Queue finished latents; ``done`` gets the picture in the request's format."""

    def preview(
        self,
        denoised: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        """Queue a denoised estimate; ``done`` gets a small JPEG."""

    def stop(self) -> None:
        """Finish what is queued and end the decoder's threads."""


class Observer(Protocol):
    """Hears what happens, for metrics; called from all of the engine's helpers' threads."""

    def on_tick(
        self, *, expert: Expert, num_rows: int, num_adapter_sets: int, seconds: float
    ) -> None:
        """Note one tick; ``num_rows`` counts UNet rows, no adapters at all are a set too."""

    def on_queue_time(self, seconds: float) -> None:
        """Note how long a request waited for its first slot."""

    def on_decode(self, seconds: float) -> None:
        """Note the time from finished latents to the picture of one image."""

    def on_adapter_load(self, *, seconds: float, tier: str, reason: str | None) -> None:
        """Note a load from ``tier``; ``reason`` is the error's, None for success."""

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Count one look for an embedding in a tier of the cache."""

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        """Note the end of a request; ``reason`` is the error's, None for success."""
