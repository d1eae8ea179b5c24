"""The engine on a fake device: admission, ticks, cancels, faults, deadlines and draining."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from diptych.errors import (
    DeadlinePassed,
    DeadlineUnreachable,
    Draining,
    EngineFault,
    OutOfDeviceMemory,
    PromptTooLong,
    QueueFull,
    RequestCancelled,
)
from diptych.inference.trajectory import (
    Completed,
    Event,
    Expert,
    ImageReady,
    Preview,
    Queued,
    Started,
    Stepped,
)
from support.fake_device import Mailbox, Rig, request


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


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", ["a", "long"])
def test_what_is_over_is_freed_without_the_garbage_collector(rig: Rig, name: str) -> None:
    mailbox = rig.submit(name, num_images=2)
    mailbox.end()
    rig.settle()
    left = weakref.ref(mailbox)
    del mailbox
    assert left() is None


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


def test_request_without_a_step_is_painted_from_its_first_latents(rig: Rig) -> None:
    mailbox = rig.submit(num_steps=0, num_images=2)
    mailbox.end()
    kinds = [type(event).__name__ for event in mailbox.events]
    assert kinds == ["Queued", "Started", "ImageReady", "ImageReady", "Completed"]
    assert rig.executor.ticks == []


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
    mailbox = rig.submit("a", num_steps=1_000_000)
    rig.engine.stop()
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
