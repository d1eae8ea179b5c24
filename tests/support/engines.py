"""An engine without networks: it answers at once, or when told to."""

import dataclasses
import threading
from collections.abc import Callable

import numpy as np

from diptych.errors import AdapterNotFound, DiptychError, Draining
from diptych.inference.adapter_pool import AdapterPool, Owned
from diptych.inference.adapting import AdapterStats
from diptych.inference.engine import EngineStats, Ticket
from diptych.inference.pins import Pinned, PinTicket
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    Listener,
    OutputFormat,
    Queued,
    Started,
    Stepped,
    Timings,
)

__all__ = ["FakeEngine"]


class FakeEngine:
    """Paints ``picture`` for every image; with ``hold`` only when ``finish`` is called.

    ``on_pin`` happens between a pin and its answer.
    """

    def __init__(self, *, hold: bool = False, on_pin: Callable[[], object] = lambda: None) -> None:
        self.hold = hold
        self.picture = b"a picture"
        self.refusal: DiptychError | None = None
        """What ``submit`` raises."""
        self.failure: DiptychError | None = None
        """What ends a request after its first step."""
        self.fault: DiptychError | None = None
        """What ended its thread."""
        self.requests: list[ImageRequest] = []
        self.started = threading.Event()
        self.submitted = threading.Event()
        self.cancelled = threading.Event()
        self.stopped = threading.Event()
        self.pins: list[Owned] = []
        """What ``load_adapter`` keeps."""
        self.holds_pins = False
        """Whether ``load_adapter`` never answers."""
        self.on_pin = on_pin
        self.asked_to_pin = threading.Event()
        self.given_up: list[Owned] = []
        self.heard_of_giving_up = threading.Event()
        self.kept: list[Owned] = []
        self.refusal_to_pin: DiptychError | None = None
        self.users: dict[Owned, int] = {}
        self._open: list[tuple[ImageRequest, Listener]] = []

    def submit(self, request: ImageRequest, listener: Listener) -> Ticket:
        """Note the request, and answer it unless it is to be held."""
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        listener(Queued(position=0, predicted_s=0.5))
        self._open.append((request, listener))
        if not self.hold:
            self.finish()
        self.submitted.set()
        return Ticket(predicted_s=0.5, cancel=self.cancelled.set)

    def finish(self) -> None:
        """Answer every request that is open."""
        while self._open:
            self._answer(*self._open.pop())

    def start(self) -> None:
        """Note it: there is no thread."""
        self.started.set()

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Return at once, or raise what ended the thread."""
        if self.fault is not None:
            raise self.fault
        return timeout_s is None or timeout_s >= 0

    def drain(self, grace_s: float) -> None:
        """Hand every open request back once the grace period is over."""
        if self._open:
            self.cancelled.wait(grace_s)
        while self._open:
            self._open.pop()[1](Failed(error=Draining()))

    def stop(self) -> None:
        """Note it."""
        self.stopped.set()

    def load_adapter(self, use: AdapterUse, done: Pinned) -> PinTicket:
        """Keep it, and say so from another thread."""
        owned = (use.tenant, use.digest)
        if not self.holds_pins:
            if self.refusal_to_pin is None:
                self.pins.append(owned)
            self.on_pin()
            threading.Thread(target=done, args=[self.refusal_to_pin]).start()
        self.asked_to_pin.set()
        return PinTicket(keep=lambda: self.kept.append(owned), give_up=lambda: self._give_up(owned))

    def unload_adapter(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        """Let it go, or say that it was not kept."""
        if (use.tenant, use.digest) not in self.pins:
            done(AdapterNotFound(use.name))
            return
        self.pins.remove((use.tenant, use.digest))
        done(None)

    def stats(self) -> EngineStats:
        """Count open requests as running."""
        return EngineStats(
            running=len(self._open),
            waiting=0,
            decoding=0,
            slots_free=4 - len(self._open),
            num_ticks=0,
            draining=False,
            adapters=AdapterStats(
                pool=dataclasses.replace(
                    AdapterPool(num_lines=64, slice_s=0.0).stats(),
                    resident=tuple(digest for _, digest in self.pins),
                    pins=tuple(self.pins),
                    users=self.users,
                ),
                in_host=frozenset(),
                running=(),
                waiting=(),
                num_waiting=0,
            ),
        )

    def _give_up(self, owned: Owned) -> None:
        self.given_up.append(owned)
        self.heard_of_giving_up.set()

    def _answer(self, request: ImageRequest, listener: Listener) -> None:
        expert = Expert.BASE if request.base is not None else Expert.REFINER
        listener(Started())
        listener(Stepped(image_index=0, step=1, num_steps=2, expert=expert))
        if self.failure is not None:
            listener(Failed(error=self.failure))
            return
        listener(Stepped(image_index=0, step=2, num_steps=2, expert=expert))
        for index in range(request.num_images):
            listener(self._image(request, index))
        listener(Completed(timings=Timings(base_s=1.0, total_s=1.5)))

    def _image(self, request: ImageRequest, index: int) -> ImageReady:
        latents = None
        if request.output is OutputFormat.LATENTS:
            latents = np.full((4, request.height // 8, request.width // 8), index, np.float32)
        return ImageReady(
            image_index=index,
            seed=request.seed + index,
            width=request.width,
            height=request.height,
            data=b"" if latents is not None else self.picture,
            latents=latents,
            draws=3,
        )
