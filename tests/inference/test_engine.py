"""The engine on a fake device: admission, ticks, cancels, faults, deadlines and draining."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.errors import (
    DeadlinePassed,
    DeadlineUnreachable,
    DiptychError,
    Draining,
    EngineFault,
    OutOfDeviceMemory,
    PromptTooLong,
    QueueFull,
    RequestCancelled,
)
from diptych.inference.engine import Engine, EngineConfig
from diptych.inference.ports import Finished, Measurement, Picture, Placement, Row
from diptych.inference.route import Route
from diptych.inference.trajectory import (
    Completed,
    Event,
    Expert,
    Failed,
    ImageReady,
    ImageRequest,
    Preview,
    Queued,
    StageSettings,
    Started,
    Stepped,
)


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeExecutor:
    """Keeps which request is in which slot, and counts; a gate can hold its ticks."""

    def __init__(self) -> None:
        self.slots: dict[int, Placement] = {}
        self.ticks: list[tuple[Expert, list[str]]] = []
        self.encoded: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.before_run: Callable[[list[str]], None] = lambda names: None
        self.warm_up_error: Exception | None = None

    def route(self, request: ImageRequest) -> Route:
        cut = round((request.boundary or 1.0) * request.num_steps)
        steps = range(request.num_steps)
        return Route(
            experts=tuple(Expert.BASE if step < cut else Expert.REFINER for step in steps),
            num_rows=(2,) * request.num_steps,
            steps=tuple(step + 1 for step in steps),
            num_steps=request.num_steps,
            coefficients=np.zeros((request.num_steps, 1), np.float32),
            needs_noise=(False,) * request.num_steps,
            start=(0.0, 1.0),
        )

    def warm_up(self) -> Sequence[Measurement]:
        if self.warm_up_error is not None:
            raise self.warm_up_error
        sample = Measurement(expert=Expert.BASE, num_pixels=64 * 64, num_rows=2, seconds=2.0)
        return [sample, replace(sample, expert=Expert.REFINER)]

    def encode(self, requests: Sequence[ImageRequest]) -> Sequence[SimpleNamespace | DiptychError]:
        names = [request.request_id for request in requests]
        self.encoded.append(names)
        if any(name.startswith("unencodable") for name in names):
            raise RuntimeError("no such word")
        return [
            PromptTooLong(field="prompt", num_tokens=99, limit=77, cut_text="x")
            if name.startswith("long")
            else SimpleNamespace(text_lengths={Expert.BASE: 77, Expert.REFINER: 77})
            for name in names
        ]

    def place(self, placement: Placement) -> None:
        assert placement.slot not in self.slots, "a slot holds one image"
        if placement.request.request_id.startswith("unplaceable"):
            raise RuntimeError("cannot be placed")
        self.slots[placement.slot] = placement

    def run(self, expert: Expert, rows: Sequence[Row]) -> Sequence[object | None]:
        names = [self.slots[row.slot].request.request_id for row in rows]
        self.before_run(names)
        self.ticks.append((expert, names))
        self.reached.set()
        assert self.gate.wait(10)
        return ["denoised" if row.preview else None for row in rows]

    def take(self, slot: int) -> Finished:
        return Finished(latents=self.slots.pop(slot).request.request_id, draws=1)

    def release(self, slot: int) -> None:
        self.slots.pop(slot, None)


class FakeDecoder:
    """Answers at once, in the thread that asks."""

    def decode(
        self,
        latents: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        if request.request_id.startswith("nan"):
            done(EngineFault("latents are not finite"))
        else:
            done(Picture(width=request.width, height=request.height, data=str(latents).encode()))

    def preview(
        self,
        denoised: object,
        request: ImageRequest,
        done: Callable[[Picture | DiptychError], None],
    ) -> None:
        done(Picture(width=8, height=8, data=b"small"))

    def stop(self) -> None:
        pass


@dataclass
class FakeObserver:
    """Remembers what it hears."""

    ticks: list[tuple[Expert, int]] = field(default_factory=list)
    finished: list[str | None] = field(default_factory=list)

    def on_tick(self, *, expert: Expert, num_rows: int, seconds: float) -> None:
        self.ticks.append((expert, num_rows))

    def on_queue_time(self, seconds: float) -> None:
        pass

    def on_decode(self, seconds: float) -> None:
        pass

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        self.finished.append(reason)


class Mailbox:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Completed | Failed):
            self._ended.set()

    def end(self) -> Event:
        assert self._ended.wait(10), "the request ends"
        return self.events[-1]

    def error(self) -> DiptychError:
        end = self.end()
        assert isinstance(end, Failed)
        return end.error


class Rig:
    """An engine on fakes."""

    def __init__(self, **config: int) -> None:
        self.executor, self.observer, self.clock = FakeExecutor(), FakeObserver(), Clock()
        self.engine = Engine(
            self.executor,
            FakeDecoder(),
            observer=self.observer,
            config=EngineConfig(**config),
            clock=self.clock,
        )

    def start(self) -> None:
        self.engine.start()
        assert self.engine.wait_ready(10)

    def submit(self, name: str = "a", **settings: object) -> Mailbox:
        mailbox = Mailbox()
        self.engine.submit(request(name, **settings), mailbox)
        return mailbox

    def hold(self) -> None:
        """Let the next tick begin but not end."""
        self.executor.gate.clear()
        self.executor.reached.clear()

    def wait_held(self) -> None:
        assert self.executor.reached.wait(10)

    def settle(self) -> None:
        """Wait until the engine has done all that was asked of it."""
        self.submit("settle", num_steps=1).end()


def request(name: str, **settings: object) -> ImageRequest:
    base = ImageRequest(
        request_id=name, width=64, height=64, seed=7, num_steps=4, base=StageSettings(prompt="a cat")
    )
    return replace(base, **settings)  # type: ignore[arg-type]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=8)
    rig.start()
    yield rig
    rig.executor.gate.set()
    rig.engine.stop()


def kinds(mailbox: Mailbox) -> list[type[Event]]:
    return [type(event) for event in mailbox.events]


def test_delivers_events_in_their_order(rig: Rig) -> None:
    mailbox = rig.submit(num_steps=3)
    mailbox.end()
    assert kinds(mailbox) == [Queued, Started, Stepped, Stepped, Stepped, ImageReady, Completed]


def test_changes_expert_at_the_boundary(rig: Rig) -> None:
    rig.submit(boundary=0.5).end()
    assert [expert for expert, _ in rig.executor.ticks] == [Expert.BASE] * 2 + [Expert.REFINER] * 2


def test_numbers_images_and_their_seeds(rig: Rig) -> None:
    mailbox = rig.submit(num_images=3)
    mailbox.end()
    ready = [event for event in mailbox.events if isinstance(event, ImageReady)]
    assert [(event.image_index, event.seed) for event in ready] == [(0, 7), (1, 8), (2, 9)]


def test_encodes_the_prompts_of_a_request_once(rig: Rig) -> None:
    rig.submit(num_images=6).end()
    assert rig.executor.encoded == [["a"]]


def test_requests_that_arrive_during_a_tick_join_the_next_one(rig: Rig) -> None:
    rig.hold()
    first = rig.submit("a")
    rig.wait_held()
    second = rig.submit("b")
    rig.executor.gate.set()
    first.end()
    second.end()
    assert rig.executor.ticks[1] == (Expert.BASE, ["a", "b"])


def test_previews_every_so_many_steps(rig: Rig) -> None:
    mailbox = rig.submit(num_steps=5, preview_every=2)
    mailbox.end()
    assert [event.step for event in mailbox.events if isinstance(event, Preview)] == [2, 4]


def test_cancel_frees_the_slot_at_the_next_tick(rig: Rig) -> None:
    rig.hold()
    mailbox = Mailbox()
    ticket = rig.engine.submit(request("a", num_steps=50), mailbox)
    rig.wait_held()
    ticket.cancel()
    rig.executor.gate.set()
    assert isinstance(mailbox.error(), RequestCancelled)
    rig.settle()
    assert [names for _, names in rig.executor.ticks] == [["a"], ["settle"]]


def test_cancel_of_a_finished_request_changes_nothing(rig: Rig) -> None:
    mailbox = Mailbox()
    ticket = rig.engine.submit(request("a"), mailbox)
    mailbox.end()
    ticket.cancel()
    rig.settle()
    assert isinstance(mailbox.events[-1], Completed)


def test_ten_thousand_cancelled_requests_leak_nothing() -> None:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=20_000)
    rig.start()
    rig.hold()
    rig.submit("running", num_steps=2)
    rig.wait_held()
    for number in range(10_000):
        rig.engine.submit(request(f"{number}"), lambda event: None).cancel()
        if number % 100 == 0:
            rig.executor.gate.set()
            rig.settle()
    rig.settle()
    rig.engine.drain(5)
    stats = rig.engine.stats()
    rig.engine.stop()
    assert (stats.slots_free, stats.running, stats.waiting, rig.executor.slots) == (4, 0, 0, {})


def test_refuses_what_does_not_fit_the_queue(rig: Rig) -> None:
    rig.hold()
    rig.submit("a", num_images=4)
    rig.wait_held()
    rig.submit("b", num_images=8)
    with pytest.raises(QueueFull) as refused:
        rig.submit("c")
    assert refused.value.retry_after_s is not None


def test_refuses_a_deadline_that_cannot_be_met(rig: Rig) -> None:
    with pytest.raises(DeadlineUnreachable):
        rig.submit(num_steps=10, deadline=rig.clock.now + 19.0)


def test_drops_a_request_whose_deadline_passes(rig: Rig) -> None:
    rig.hold()
    mailbox = rig.submit(num_steps=10, deadline=rig.clock.now + 60.0)
    rig.wait_held()
    rig.clock.now += 61.0
    rig.executor.gate.set()
    assert isinstance(mailbox.error(), DeadlinePassed)


def test_a_prompt_that_is_too_long_fails_its_request_only(rig: Rig) -> None:
    rig.hold()
    rig.submit("a")
    rig.wait_held()
    long, fine = rig.submit("long"), rig.submit("fine")
    rig.executor.gate.set()
    assert isinstance(long.error(), PromptTooLong)
    assert isinstance(fine.end(), Completed)


@pytest.mark.parametrize("bad", ["unencodable", "unplaceable", "nan"])
def test_a_bad_request_never_fails_its_neighbours(rig: Rig, bad: str) -> None:
    rig.hold()
    rig.submit("a")
    rig.wait_held()
    broken, fine = rig.submit(bad), rig.submit("fine")
    rig.executor.gate.set()
    assert isinstance(broken.error(), EngineFault)
    assert isinstance(fine.end(), Completed)


def test_a_row_that_raises_fails_alone(rig: Rig) -> None:
    def raise_for_bad(names: list[str]) -> None:
        if "bad" in names:
            raise ValueError("bad row")

    rig.executor.before_run = raise_for_bad
    rig.hold()
    rig.submit("a")
    rig.wait_held()
    bad, fine = rig.submit("bad"), rig.submit("fine")
    rig.executor.gate.set()
    assert isinstance(bad.error(), EngineFault)
    assert isinstance(fine.end(), Completed)


def test_out_of_memory_splits_the_batch_and_later_ticks_stay_small(rig: Rig) -> None:
    def fit_two(names: list[str]) -> None:
        if len(names) > 2:
            raise OutOfDeviceMemory(width=64, height=64)

    rig.executor.before_run = fit_two
    mailbox = rig.submit(num_images=4)
    assert isinstance(mailbox.end(), Completed)
    assert max(rows for _, rows in rig.observer.ticks[1:]) == 4


def test_out_of_memory_twice_fails_the_largest_row_only(rig: Rig) -> None:
    def refuse_huge(names: list[str]) -> None:
        if "huge" in names:
            raise OutOfDeviceMemory(width=64, height=64)

    rig.executor.before_run = refuse_huge
    rig.hold()
    rig.submit("a")
    rig.wait_held()
    fine, huge = rig.submit("fine"), rig.submit("huge")
    rig.executor.gate.set()
    assert isinstance(huge.error(), OutOfDeviceMemory)
    assert isinstance(fine.end(), Completed)


def test_drain_finishes_what_runs_and_hands_the_rest_back(rig: Rig) -> None:
    rig.hold()
    running = rig.submit("a", num_images=4)
    rig.wait_held()
    waiting = rig.submit("b")
    drainer = threading.Thread(target=rig.engine.drain, args=(1000.0,))
    drainer.start()
    while not rig.engine.stats().draining:
        pass
    with pytest.raises(Draining):
        rig.submit("c")
    rig.executor.gate.set()
    drainer.join(10)
    assert isinstance(waiting.error(), Draining)
    assert isinstance(running.end(), Completed)


def test_drain_gives_up_after_the_grace_period(rig: Rig) -> None:
    rig.hold()
    running = rig.submit("a", num_steps=1000)
    rig.wait_held()
    drainer = threading.Thread(target=rig.engine.drain, args=(0.0,))
    drainer.start()
    rig.executor.gate.set()
    drainer.join(10)
    assert isinstance(running.error(), Draining)


def test_stop_hands_back_what_is_open(rig: Rig) -> None:
    rig.hold()
    mailbox = rig.submit("a", num_steps=1000)
    rig.wait_held()
    stopper = threading.Thread(target=rig.engine.stop)
    stopper.start()
    rig.executor.gate.set()
    stopper.join(10)
    assert isinstance(mailbox.error(), Draining)


def test_a_listener_that_raises_hurts_nobody_else(rig: Rig) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    rig.engine.submit(request("a"), broken)
    assert isinstance(rig.submit("b").end(), Completed)


def test_says_why_it_is_not_ready() -> None:
    rig = Rig()
    rig.executor.warm_up_error = RuntimeError("no device")
    rig.engine.start()
    with pytest.raises(EngineFault, match="no device"):
        rig.engine.wait_ready(10)
    with pytest.raises(EngineFault, match="no device"):
        rig.submit()
    rig.engine.stop()


def test_tells_the_observer_how_requests_ended(rig: Rig) -> None:
    rig.submit("a").end()
    rig.submit("long").end()
    assert rig.observer.finished == [None, "PROMPT_TOO_LONG"]
