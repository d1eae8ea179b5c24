"""The engine: one thread that admits, encodes, ticks and hands finished latents on.

Everything the device does between a prompt and its latents happens in the engine's thread, in
the order that ``Engine._loop`` shows. Callers reach it through an inbox; what comes back are the
events of ``trajectory``, delivered from the engine's and the decoder's threads.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diptych.errors import DeadlinePassed, DiptychError, Draining, EngineFault, RequestCancelled
from diptych.inference.adapter_pool import AdapterPool
from diptych.inference.adapting import AdapterStats, Adapting
from diptych.inference.admission import CostModel
from diptych.inference.book import Book
from diptych.inference.call import Call, Image
from diptych.inference.delivery import Delivery
from diptych.inference.isolation import Isolation
from diptych.inference.pins import Pinned, PinTicket
from diptych.inference.ports import AdapterLoader, Decoder, Executor, Observer
from diptych.inference.scheduler import Group, Scheduler, Tick
from diptych.inference.starting import Starting
from diptych.inference.trajectory import AdapterUse, ImageRequest, Listener, Stepped
from diptych.inference.waiting import Waiting

__all__ = ["Engine", "EngineConfig", "EngineStats", "Ticket"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much runs and how much may wait."""

    num_slots: int = 32
    """Images that run at the same time."""
    max_rows: int = 32
    """UNet rows of one tick; a guided image takes two."""
    max_waiting: int = 256
    """Images that may wait for a slot before requests are refused."""
    max_decoding: int = 64
    """Finished latents that may wait for the decoder before no more images are started."""
    adapter_lines: int = 512
    """Sum of the ranks of the adapters that are on the device at the same time."""
    adapter_slice_s: float = 2.0
    """Seconds an adapter keeps its lines for new images while another one waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine is doing, counted in images."""

    running: int
    waiting: int
    decoding: int
    slots_free: int
    num_ticks: int
    draining: bool
    adapters: AdapterStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A submitted request."""

    predicted_s: float
    cancel: Callable[[], None]
    """Give the request up: its slots are free at the next tick. Later calls do nothing."""


class Engine:
    """Runs requests on one device; the public methods are safe from any thread."""

    def __init__(
        self,
        executor: Executor,
        decoder: Decoder,
        loader: AdapterLoader,
        *,
        observer: Observer,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = config or EngineConfig()
        self._executor, self._decoder, self._observer = executor, decoder, observer
        self._config, self._clock, self._costs = config, clock, CostModel()
        self._book = Book(costs=self._costs, max_waiting=config.max_waiting, clock=clock)
        self._scheduler = Scheduler(max_rows=config.max_rows, cost=self._predict_tick_s)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._delivery = Delivery(
            decoder=decoder,
            observer=observer,
            clock=clock,
            done=lambda call, error: self._inbox.put(partial(self._after_decode, call, error)),
        )
        self._images: dict[int, Image] = {}
        self._adapting = Adapting(
            executor=executor,
            loader=loader,
            pool=AdapterPool(num_lines=config.adapter_lines, slice_s=config.adapter_slice_s),
            post=self._inbox.put,
            fail=self._close,
            queue=lambda: (image for image in self._images.values() if image.waiting),
            clock=clock,
        )
        self._starting = Starting(
            executor=executor, observer=observer, clock=clock, fail=self._close
        )
        self._waiting = Waiting()
        self._running: dict[int, Image] = {}
        self._free_slots = list(range(config.num_slots))
        self._num_decoding = self._num_ticks = 0
        self._drain_at: float | None = None
        self._halted = False
        self._ready = threading.Event()
        self._empty = threading.Event()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread, which first warms the executor up."""
        self._thread.start()

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Return whether the engine is warm within ``timeout_s``.

        Raises:
            EngineFault: The engine's thread has ended by an error.
        """
        ready = self._ready.wait(timeout_s)
        if self._book.fault is not None:
            raise self._book.fault
        return ready

    def submit(self, request: ImageRequest, listener: Listener) -> Ticket:
        """Admit ``request`` or refuse it; its events go to ``listener``.

        Raises:
            InvalidRequest: Something in the request cannot be done.
            ExpertMissing: It needs an expert that is not loaded.
            QueueFull: Too much waits already.
            DeadlineUnreachable: It would end after its deadline.
            Draining: The server shuts down.
            EngineFault: The engine's thread has ended by an error.
        """
        route = self._executor.route(request)
        call, predicted_s = self._book.enter(request, listener, route)
        self._inbox.put(partial(self._enter, call))
        cancelled = RequestCancelled(request.request_id)
        return Ticket(
            predicted_s=predicted_s,
            cancel=lambda: self._inbox.put(partial(self._close, call, cancelled)),
        )

    def load_adapter(self, use: AdapterUse, done: Pinned) -> PinTicket:
        """Bring an adapter to the device and keep it there; raises what ``Book.open`` does."""
        with self._book.open():
            return self._adapting.load(use, done)

    def unload_adapter(self, use: AdapterUse, *, evict: bool, done: Pinned) -> None:
        """Let a kept adapter go when room is needed, with ``evict`` at once; raises likewise."""
        with self._book.open():
            self._adapting.unload(use, evict=evict, done=done)

    def stats(self) -> EngineStats:
        """Return a snapshot; its counts may be one tick apart."""
        return EngineStats(
            running=len(self._running),
            waiting=self._book.num_waiting(),
            decoding=self._num_decoding,
            slots_free=len(self._free_slots),
            num_ticks=self._num_ticks,
            draining=self._book.draining,
            adapters=self._adapting.stats,
        )

    def drain(self, grace_s: float) -> None:
        """Take no more requests, let what runs finish within ``grace_s``, hand back the rest.

        Returns when no request is open. Requests that have no slot yet fail with Draining at
        once, and those that still run after ``grace_s`` fail then.
        """
        self._book.close_door()
        if self._thread.is_alive():
            self._inbox.put(partial(self._begin_drain, self._clock() + grace_s))
            self._empty.wait()

    def stop(self) -> None:
        """Fail what is open with Draining and end the engine's and the decoder's threads."""
        self._book.close_door()
        self._inbox.put(self._halt)
        if self._thread.is_alive():
            self._thread.join()
        self._adapting.loader.stop()
        self._decoder.stop()

    # From here on everything runs in the engine's thread.

    def _main(self) -> None:
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001  logged, fails all requests
            _log.exception("the engine's thread ends")
            fault = EngineFault(f"engine thread: {error}")
            self._book.close_door(fault)
            self._close_all(fault)
            while not self._inbox.empty():
                self._inbox.get()()
        finally:
            self._ready.set()
            self._empty.set()

    def _loop(self) -> None:
        for sample in self._executor.warm_up():
            self._costs.learn(
                sample.expert, sample.num_pixels, num_rows=sample.num_rows, seconds=sample.seconds
            )
        self._ready.set()
        while not self._halted:
            self._receive()
            self._give_up_late()
            self._admit()
            tick = self._scheduler.next_tick()
            if tick is not None:
                self._advance(tick)
            self._adapting.refresh()

    def _receive(self) -> None:
        """Do what the inbox asks; with nothing to run, wait for it or for the next deadline."""
        idle = not len(self._scheduler) and self._next_image() is None
        try:
            message = self._inbox.get(block=idle, timeout=self._sleep_s() if idle else None)
            while True:
                message()
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _sleep_s(self) -> float | None:
        instants = [call.deadline for call in self._book.calls()] + [self._drain_at]
        until = min((instant for instant in instants if instant is not None), default=None)
        return None if until is None else max(0.0, until - self._clock())

    def _give_up_late(self) -> None:
        now = self._clock()
        for call in self._book.calls():
            if call.deadline is not None and now > call.deadline:
                late_s = now - call.deadline
                self._close(call, DeadlinePassed(request_id=call.request_id, late_s=late_s))
        if self._drain_at is not None and now >= self._drain_at:
            self._close_all(Draining())

    def _enter(self, call: Call) -> None:
        if self._book.draining:
            self._close(call, Draining())
        elif not call.closed:
            flow = frozenset(use.digest for use in call.request.adapters)
            for image in call.images:
                self._images[image.number] = image
                self._waiting.put(image.number, flow, cost_s=call.image_s)
            self._adapting.expect(call)

    def _next_image(self) -> Image | None:
        """Return the image that starts next, None when none can."""
        if not self._free_slots or self._num_decoding >= self._config.max_decoding:
            return None
        return self._adapting.choose([self._images[number] for number in self._waiting.heads()])

    def _admit(self) -> None:
        """Give free slots to the images whose turn it is and whose adapters are at hand."""
        entered: list[Image] = []
        while (image := self._next_image()) is not None:
            if not self._adapting.attach(image):
                continue
            self._waiting.take(image.number)
            image.slot = self._free_slots.pop()
            self._running[image.number] = image
            entered.append(image)
        fresh = dict.fromkeys(image.call for image in entered)
        self._starting.encode([call for call in fresh if call.conditioning is None])
        for image in entered:
            if not image.call.closed and self._starting.place(image):
                self._schedule(image)

    def _schedule(self, image: Image) -> None:
        """Let ``image`` wait for its next evaluation; without one its latents are finished."""
        call = image.call
        if image.position == len(call.route):
            self._send(image)
            return
        assert call.conditioning is not None
        expert = call.route.experts[image.position]
        group = Group(
            expert=expert,
            width=call.request.width,
            height=call.request.height,
            text_length=call.conditioning.text_lengths[expert],
        )
        self._scheduler.put(image.number, group, image.num_rows)

    def _predict_tick_s(self, group: Group, num_rows: int) -> float:
        return num_rows * self._costs.row_s(group.expert, group.num_pixels)

    def _advance(self, tick: Tick) -> None:
        """Run one tick and take every image of it one evaluation further."""
        group, images = tick.group, [self._running[number] for number in tick.members]
        isolation = Isolation(
            executor=self._executor,
            fail=lambda image, error: self._close(image.call, error),
            shrink=lambda: self._scheduler.limit_rows(group, tick.num_rows // 2),
        )
        began = self._clock()
        advanced = isolation.run(group.expert, images)
        seconds = self._clock() - began
        self._num_ticks += 1
        self._costs.learn(group.expert, group.num_pixels, num_rows=tick.num_rows, seconds=seconds)
        self._observer.on_tick(
            expert=group.expert,
            num_rows=tick.num_rows,
            num_adapter_sets=len({image.call.request.adapters for image in images}),
            seconds=seconds,
        )
        for call in {image.call for image in images}:
            call.expert_s[group.expert] = call.expert_s.get(group.expert, 0.0) + seconds
        for image, denoised in advanced:
            if not image.call.closed:
                self._step(image, denoised)

    def _step(self, image: Image, denoised: object | None) -> None:
        call, route = image.call, image.call.route
        done = image.position
        image.position += 1
        if route.completes_step(done):
            step = Stepped(
                image_index=image.index,
                step=route.steps[done],
                num_steps=route.num_steps,
                expert=route.experts[done],
            )
            call.deliver(step)
            if denoised is not None:
                self._delivery.send_preview(image, denoised, step=step.step)
        self._schedule(image)

    def _send(self, image: Image) -> None:
        """Hand the latents of a finished trajectory to the decoder; its slot is free at once."""
        assert image.slot is not None
        finished = self._executor.take(image.slot)
        image.sent = True
        self._leave(image)
        self._num_decoding += 1
        self._delivery.send(image, finished)

    def _leave(self, image: Image) -> None:
        """Take ``image`` out of whatever holds it; harmless when nothing does."""
        self._waiting.discard(image.number)
        self._images.pop(image.number, None)
        self._scheduler.discard(image.number)
        if self._running.pop(image.number, None) is not None:
            assert image.slot is not None
            self._executor.release(image.slot)
            self._adapting.release(image)
            self._free_slots.append(image.slot)
            image.slot = None

    def _close(self, call: Call, error: DiptychError | None) -> None:
        """End ``call`` with ``error``, or only clear up after one that is complete."""
        if error is not None and call.fail(error):
            self._delivery.finish(call, error.reason)
        for image in call.let_go():
            self._leave(image)
        self._adapting.dismiss(call)
        if self._book.remove(call) and self._drain_at is not None:
            self._empty.set()

    def _close_all(self, error: DiptychError) -> None:
        self._adapting.end(error)
        for call in self._book.calls():
            self._close(call, error)

    def _begin_drain(self, until: float) -> None:
        self._drain_at = until
        for call in self._book.calls():
            if call.started_at is None:
                self._close(call, Draining())
        if not self._book.calls():
            self._empty.set()

    def _halt(self) -> None:
        self._close_all(Draining())
        self._halted = True

    def _after_decode(self, call: Call, error: DiptychError | None) -> None:
        self._num_decoding -= 1
        if error is not None or call.closed:
            self._close(call, error)
