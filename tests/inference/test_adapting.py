"""Adapters load while other requests go on; who waits, who yields, and what fails alone."""

import threading
from collections.abc import Iterator

import pytest

from diptych.errors import (
    AdapterInUse,
    AdapterInvalid,
    AdapterNotFound,
    AdapterSlotsFull,
    DiptychError,
    Draining,
    EngineFault,
    RequestCancelled,
)
from diptych.inference.trajectory import AdapterState, AdapterWaited, Completed
from support.fake_device import Mailbox, Rig, request, use


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=64, adapter_lines=8)
    rig.start()
    yield rig
    rig.executor.gate.set()
    rig.engine.stop()


class Answer:
    """What a pin comes to."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: DiptychError | None = None

    def __call__(self, error: DiptychError | None) -> None:
        self._error = error
        self._event.set()

    def get(self) -> DiptychError | None:
        assert self._event.wait(10)
        return self._error


def states(mailbox: Mailbox) -> list[tuple[str, AdapterState]]:
    waited = [event for event in mailbox.events if isinstance(event, AdapterWaited)]
    return [(event.name, event.state) for event in waited]


def pin(rig: Rig, name: str) -> None:
    answer = Answer()
    rig.engine.load_adapter(use(name), answer)
    assert answer.get() is None


def resident(rig: Rig) -> set[str]:
    members = [member for unit in rig.executor.attached for member in unit.members]
    return {member.digest.removeprefix("sha256:") for member in members}


def test_tells_how_far_a_cold_adapter_is(rig: Rig) -> None:
    mailbox = rig.submit(adapters=(use("a"),))
    mailbox.end()
    expected = [AdapterState.QUEUED, AdapterState.FETCHING, AdapterState.READY]
    assert states(mailbox) == [("a", state) for state in expected]


def test_doras_of_one_request_load_together(rig: Rig) -> None:
    mailbox = rig.submit(adapters=(use("b", dora=True), use("a", dora=True)))
    mailbox.end()
    assert rig.loader.asked == ["a+b"]
    assert [name for name, state in states(mailbox) if state is AdapterState.READY] == ["b", "a"]


def test_a_resident_adapter_is_not_waited_for(rig: Rig) -> None:
    rig.submit(adapters=(use("a"),)).end()
    mailbox = rig.submit(adapters=(use("a", scale=0.3),))
    mailbox.end()
    assert states(mailbox) == []
    assert rig.loader.asked == ["a"]


def test_others_go_on_while_an_adapter_loads(rig: Rig) -> None:
    rig.loader.hold = True
    cold = rig.submit("cold", adapters=(use("a"),))
    assert isinstance(rig.submit("warm").end(), Completed)
    rig.loader.held.pop("a")()
    assert isinstance(cold.end(), Completed)


def test_many_requests_load_an_adapter_once(rig: Rig) -> None:
    rig.loader.hold = True
    waiting = [rig.submit(str(number), adapters=(use("a"),)) for number in range(5)]
    rig.settle()
    rig.loader.held.pop("a")()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in waiting)
    assert rig.loader.asked == ["a"]


def test_unlike_sets_share_a_tick_and_are_counted(rig: Rig) -> None:
    rig.loader.hold = True
    waiting = [rig.submit(name, adapters=(use(name),)) for name in ("a", "b", "a")]
    rig.settle()
    rig.hold()
    for name in ("a", "b"):
        rig.loader.held.pop(name)()
    rig.executor.gate.set()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in waiting)
    assert max(rig.observer.adapter_sets) == 2


def test_a_broken_adapter_fails_its_own_requests_only(rig: Rig) -> None:
    broken = rig.submit("x", adapters=(use("broken"), use("a")))
    healthy = rig.submit("y", adapters=(use("a"),))
    assert isinstance(broken.error(), AdapterInvalid)
    assert isinstance(healthy.end(), Completed)
    assert ("broken", AdapterState.FAILED) in states(broken)


def test_a_broken_adapter_is_tried_again_for_the_next_request(rig: Rig) -> None:
    for _ in range(2):
        rig.submit(adapters=(use("broken"),)).error()
    assert rig.loader.asked == ["broken", "broken"]


def test_an_adapter_that_cannot_be_attached_fails_its_own_requests_only(rig: Rig) -> None:
    assert isinstance(rig.submit(adapters=(use("unattachable"),)).error(), EngineFault)
    assert isinstance(rig.submit(adapters=(use("a"),)).end(), Completed)


def test_a_full_device_gives_up_what_is_idle(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.submit(adapters=(use(name),)).end()
    rig.settle()
    assert resident(rig) == {"b", "c"}


def test_a_slot_in_use_is_never_taken(rig: Rig) -> None:
    rig.hold()
    running = rig.submit("running", adapters=(use("a-r8"),))
    rig.wait_held()
    other = rig.submit("other", adapters=(use("b-r8"),))
    rig.executor.gate.set()
    assert isinstance(running.end(), Completed)
    assert isinstance(other.end(), Completed)


def test_more_rank_than_there_is_is_refused(rig: Rig) -> None:
    error = rig.submit(adapters=(use("a-r6"), use("b-r6"))).error()
    assert isinstance(error, AdapterSlotsFull)
    assert (error.needed_lines, error.num_lines) == (12, 8)


def test_cancelling_while_loading_leaves_nothing(rig: Rig) -> None:
    rig.loader.hold = True
    mailbox = Mailbox()
    ticket = rig.engine.submit(request("x", adapters=(use("a"),)), mailbox)
    ticket.cancel()
    assert isinstance(mailbox.error(), RequestCancelled)
    rig.loader.held.pop("a")()
    rig.settle()
    assert resident(rig) == set()
    assert rig.engine.stats().adapters.num_waiting == 0


def test_a_hot_adapter_does_not_starve_a_cold_one(rig: Rig) -> None:
    rig.hold()
    hot = [rig.submit(f"hot{number}", adapters=(use("hot-r8"),)) for number in range(30)]
    rig.wait_held()
    cold = rig.submit("cold", adapters=(use("cold-r8"),))
    rig.clock.now += 3.0
    rig.executor.gate.set()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in [*hot, cold])
    order = [name for _, names in rig.executor.ticks for name in names]
    last = len(order) - order[::-1].index("cold")
    assert len(set(order[last:])) > 10


def test_a_pinned_adapter_stays(rig: Rig) -> None:
    pin(rig, "a")
    for name in ("b", "c", "d"):
        rig.submit(adapters=(use(name),)).end()
    assert "a" in resident(rig)


def test_whoever_hears_of_a_pin_sees_it(rig: Rig) -> None:
    seen: list[tuple[str, ...]] = []
    answer = Answer()

    def look(error: DiptychError | None) -> None:
        seen.append(rig.engine.stats().adapters.pool.pinned)
        answer(error)

    rig.engine.load_adapter(use("a"), look)
    assert answer.get() is None
    assert seen == [("sha256:a",)]


def test_stopping_answers_who_waits_for_a_pin(rig: Rig) -> None:
    rig.loader.hold = True
    answer = Answer()
    rig.engine.load_adapter(use("a"), answer)
    rig.engine.stop()
    assert isinstance(answer.get(), Draining)


def test_a_dead_engine_answers_who_asked_for_a_pin_and_refuses_more() -> None:
    rig, answer = Rig(), Answer()
    rig.executor.warm_up_error = RuntimeError("no device")
    rig.engine.load_adapter(use("a"), answer)
    rig.engine.start()
    assert isinstance(answer.get(), EngineFault)
    with pytest.raises(EngineFault):
        rig.engine.load_adapter(use("b"), answer)
    rig.engine.stop()


def test_an_unpinned_adapter_goes_when_room_is_needed(rig: Rig) -> None:
    pin(rig, "a")
    answer = Answer()
    rig.engine.unload_adapter(use("a"), evict=False, done=answer)
    assert answer.get() is None
    for name in ("b", "c"):
        rig.submit(adapters=(use(name),)).end()
    rig.settle()
    assert resident(rig) == {"b", "c"}


def test_eviction_of_what_runs_is_refused(rig: Rig) -> None:
    pin(rig, "a")
    rig.hold()
    running = rig.submit(adapters=(use("a"),))
    rig.wait_held()
    answer = Answer()
    rig.engine.unload_adapter(use("a"), evict=True, done=answer)
    rig.executor.gate.set()
    assert isinstance(answer.get(), AdapterInUse)
    assert isinstance(running.end(), Completed)


def test_unloading_what_is_not_loaded_is_refused(rig: Rig) -> None:
    answer = Answer()
    rig.engine.unload_adapter(use("a"), evict=False, done=answer)
    assert isinstance(answer.get(), AdapterNotFound)


def test_a_pin_that_does_not_fit_is_refused(rig: Rig) -> None:
    answers = [Answer(), Answer()]
    for name, answer in zip(("a-r8", "b-r1"), answers, strict=True):
        rig.engine.load_adapter(use(name), answer)
    assert answers[0].get() is None
    assert isinstance(answers[1].get(), AdapterSlotsFull)


def test_a_request_that_only_pins_keep_out_is_refused(rig: Rig) -> None:
    pin(rig, "a-r8")
    assert isinstance(rig.submit(adapters=(use("b"),)).error(), AdapterSlotsFull)


def test_stats_name_what_runs(rig: Rig) -> None:
    rig.hold()
    running = rig.submit(adapters=(use("a"),))
    rig.wait_held()
    rig.executor.gate.set()
    running.end()
    rig.settle()
    adapters = rig.engine.stats().adapters
    assert (adapters.running, adapters.pool.resident) == ((), ("sha256:a",))


def test_what_waits_stays_within_host_memory(rig: Rig) -> None:
    rig.loader.limit_bytes = 16
    rig.hold()
    running = rig.submit("running", adapters=(use("a-r8"),))
    rig.wait_held()
    waiting = [rig.submit(str(n), adapters=(use(f"b{n}-r8"),)) for n in range(6)]
    rig.executor.gate.set()
    assert all(isinstance(own.end(), Completed) for own in [running, *waiting])
    assert rig.loader.most_bytes <= 16
    assert sum(rig.loader.in_memory.values()) == 0


def test_the_first_call_loads_all_it_needs_without_room(rig: Rig) -> None:
    rig.loader.limit_bytes = 0
    uses = tuple(use(f"{name}-r2") for name in "abc")
    waiting = [rig.submit(own.name, adapters=uses[n:]) for n, own in enumerate(uses)]
    assert all(isinstance(own.end(), Completed) for own in waiting)


def test_only_some_adapters_are_read_at_a_time(rig: Rig) -> None:
    rig.loader.hold = True
    waiting = [rig.submit(str(n), adapters=(use(f"a{n}"),)) for n in range(6)]
    rig.settle()
    assert rig.loader.asked == ["a0", "a1", "a2", "a3"]
    rig.loader.hold = False
    for finish in list(rig.loader.held.values()):
        finish()
    assert all(isinstance(own.end(), Completed) for own in waiting)


def test_tokens_make_way_when_host_memory_is_full(rig: Rig) -> None:
    rig.loader.limit_bytes = 20
    for number in range(5):
        rig.submit(adapters=(use(f"token{number}"),)).end()
    rig.settle()
    assert resident(rig) == {"token2", "token3", "token4"}
    assert rig.loader.most_bytes <= 24


def test_the_file_of_what_is_pinned_is_kept(rig: Rig) -> None:
    pin(rig, "a")
    pin(rig, "a")
    assert rig.loader.kept == {"a"}
    answer = Answer()
    rig.engine.unload_adapter(use("a"), evict=False, done=answer)
    assert answer.get() is None
    assert rig.loader.kept == set()


def test_the_file_of_what_cannot_be_pinned_is_not(rig: Rig) -> None:
    for name in ("broken", "a-r9", "unattachable"):
        answer = Answer()
        rig.engine.load_adapter(use(name), answer)
        assert isinstance(answer.get(), DiptychError)
    assert rig.loader.kept == set()
