"""One request on its way through the engine, and its images."""

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from diptych.errors import DiptychError
from diptych.inference.adapter_units import Unit, units_of
from diptych.inference.ports import Conditioning
from diptych.inference.route import Route
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Event,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    Listener,
    Preview,
    Timings,
)

__all__ = ["Call", "Image"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Image:
    """One image of a call: a trajectory and how far it is; owned by the engine thread."""

    call: "Call"
    number: int
    """Counts up over the engine's life: the smaller, the older."""
    index: int
    slot: int | None = None
    """Row of device state it occupies while it runs."""
    position: int = 0
    """Evaluation of the route that comes next."""
    sent: bool = False
    """It has left its slot for the decoder."""

    @property
    def waiting(self) -> bool:
        """Return whether it has not been given a slot yet."""
        return self.slot is None and not self.sent

    @property
    def num_rows(self) -> int:
        """Return the UNet rows its next evaluation takes."""
        return self.call.route.num_rows[self.position]

    @property
    def left_s(self) -> float:
        """Return predicted device seconds to its end."""
        return self.call.image_s * (1 - self.position / max(1, len(self.call.route)))


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A request, its listener and what came of it.

    ``deliver`` and ``close`` may be called from any thread and keep the listener's promise: one
    event at a time, nothing after the last. Everything else belongs to the engine thread.
    """

    request: ImageRequest
    route: Route
    listener: Listener
    submitted_at: float
    image_s: float
    """Predicted device seconds of one image."""
    units: Mapping[Unit, tuple[AdapterUse, ...]] = field(init=False)
    """What of its adapters must be on the device while its images run."""
    images: list[Image] = field(default_factory=list)
    conditioning: Conditioning | None = None
    """The executor's embeddings once the prompts are encoded."""
    started_at: float | None = None
    encode_s: float = 0.0
    num_texts_encoded: int = 0
    num_texts_cached: int = 0
    expert_s: dict[Expert, float] = field(default_factory=dict)
    """Seconds of the ticks that advanced any of its images."""
    decoding_since: float = 0.0
    closed: bool = False
    _num_ready: int = 0
    _previewed: dict[int, float] = field(default_factory=dict)
    """Last step of each image that its listener saw; infinite once the picture is there."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.units = units_of(self.request)

    @property
    def request_id(self) -> str:
        """Return the caller's name for the request."""
        return self.request.request_id

    @property
    def deadline(self) -> float | None:
        """Return the instant after which the answer is worthless."""
        return self.request.deadline

    def deliver(self, event: Event) -> None:
        """Hand ``event`` to the listener unless the call is over."""
        with self._lock:
            if not self.closed:
                self._tell(event)

    def deliver_preview(self, preview: Preview) -> None:
        """Hand ``preview`` to the listener unless that knows a later state of the image.

        Previews are written by several threads, so an older one may be ready after a newer one.
        """
        with self._lock:
            if not self.closed and preview.step > self._previewed.get(preview.image_index, 0):
                self._previewed[preview.image_index] = preview.step
                self._tell(preview)

    def complete_image(self, ready: ImageReady, now: float) -> bool:
        """Deliver a finished image; after the last one close the call and return True."""
        with self._lock:
            if self.closed:
                return False
            self._previewed[ready.image_index] = math.inf
            self._tell(ready)
            self._num_ready += 1
            if self._num_ready < self.request.num_images:
                return False
            self.closed = True
            self._tell(Completed(timings=self._timings(now)))
            return True

    def fail(self, error: DiptychError) -> bool:
        """Close the call with ``error``; return False if it was over already."""
        with self._lock:
            if self.closed:
                return False
            self.closed = True
            self._tell(Failed(error=error))
            return True

    def let_go(self) -> list[Image]:
        """Drop images and embeddings as the call is over; return the images, once.

        Images and their call hold each other, and the collector of such rings comes by seldom in
        a process with this many objects: embeddings and pictures sent in would pile up until then.
        """
        images, self.images, self.conditioning = self.images, [], None
        return images

    def _tell(self, event: Event) -> None:
        try:
            self.listener(event)
        except Exception:  # noqa: BLE001  a listener must not end the engine
            _log.exception("listener of request %s raised", self.request_id)

    def _timings(self, now: float) -> Timings:
        started_at = now if self.started_at is None else self.started_at
        return Timings(
            queue_s=started_at - self.submitted_at,
            encode_s=self.encode_s,
            base_s=self.expert_s.get(Expert.BASE, 0.0),
            refiner_s=self.expert_s.get(Expert.REFINER, 0.0),
            decode_s=now - self.decoding_since,
            total_s=now - self.submitted_at,
            num_texts_encoded=self.num_texts_encoded,
            num_texts_cached=self.num_texts_cached,
        )
