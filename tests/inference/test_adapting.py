"""Adapters load while other requests go on; who waits, who yields, and what fails alone."""

from collections.abc import Iterator

import pytest

from diptych.errors import (
    AdapterInvalid,
    AdapterSlotsFull,
    EngineFault,
    RequestCancelled,
)
from diptych.inference.adapter_units import unit_of
from diptych.inference.trajectory import AdapterState, AdapterWaited, Completed
from support.fake_device import Mailbox, Rig, request, use
from support.pinning import pin, resident, unpin


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=64, adapter_lines=8)
    rig.start()
    yield rig
    rig.executor.gate.set()
    rig.engine.stop()


def states(mailbox: Mailbox) -> list[tuple[str, AdapterState]]:
    waited = [event for event in mailbox.events if isinstance(event, AdapterWaited)]
    return [(event.name, event.state) for event in waited]


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


def test_what_one_tenant_cannot_load_is_loaded_for_another_from_its_own_store(rig: Rig) -> None:
    rig.loader.hold = True
    theirs = use("broken", tenant="studio", digest="sha256:a")
    failing = [rig.submit(str(number), adapters=(theirs,)) for number in range(2)]
    own = rig.submit("own", adapters=(use("a", tenant="lab"),))
    rig.settle()
    rig.loader.hold = False
    rig.loader.held.pop("broken")()
    assert all(isinstance(mailbox.error(), AdapterInvalid) for mailbox in failing)
    assert isinstance(own.end(), Completed)
    assert rig.loader.asked == ["broken", "a"]
    assert ("a", AdapterState.FAILED) not in states(own)


def test_each_tenant_hears_of_its_own_failed_load(rig: Rig) -> None:
    rig.loader.hold = True
    uses = [use(f"broken-{own}", tenant=own, digest="sha256:a") for own in ("studio", "lab")]
    waiting = [rig.submit(adapters=(own,)) for own in uses]
    rig.settle()
    rig.loader.hold = False
    rig.loader.held.pop("broken-studio")()
    errors = [mailbox.error() for mailbox in waiting]
    assert ["broken-studio" in str(errors[0]), "broken-lab" in str(errors[1])] == [True, True]
    assert rig.loader.asked == ["broken-studio", "broken-lab"]


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


COLD = tuple(f"cold{number}-r4" for number in range(100))


@pytest.mark.parametrize(
    ("name", "pinned"),
    [("hot-r4", False), ("hot-r4", True), ("hot-r12", False)],
    ids=["small", "pinned", "fills the device"],
)
def test_a_flood_for_one_adapter_does_not_starve_a_hundred_others(
    name: str, *, pinned: bool
) -> None:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=600, adapter_lines=12)
    rig.start()
    rig.executor.before_run = lambda names: setattr(rig.clock, "now", rig.clock.now + 0.5)
    if pinned:
        pin(rig, name)
    rig.hold()
    hot = [rig.submit("hot", adapters=(use(name),)) for _ in range(400)]
    rig.wait_held()
    cold = [rig.submit(own, adapters=(use(own),)) for own in COLD]
    before = len(rig.executor.ticks)
    rig.executor.gate.set()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in cold)
    assert sum(isinstance(mailbox.events[-1], Completed) for mailbox in hot) < 200
    ticks = [names for _, names in rig.executor.ticks[before:]]
    last = max(number for number, names in enumerate(ticks) if set(names) & set(COLD))
    rig.engine.stop()
    # Two cold ones at a time beside the hot one, or three, four ticks each: 200 ticks at best.
    assert last < 240


def test_stats_name_what_runs(rig: Rig) -> None:
    rig.hold()
    running = rig.submit(adapters=(use("a"),))
    rig.wait_held()
    rig.executor.gate.set()
    running.end()
    rig.settle()
    adapters = rig.engine.stats().adapters
    assert (adapters.running, adapters.pool.resident) == ((), ("sha256:a",))


def test_adapters_are_told_as_running_or_waiting_by_the_images_that_have_them(rig: Rig) -> None:
    rig.hold()
    running = rig.submit("running", num_images=4, adapters=(use("a"),))
    rig.wait_held()
    queued = rig.submit("queued", adapters=(use("a"), use("b")))
    seen = [rig.engine.stats().adapters]
    rig.executor.before_run = lambda names: seen.append(rig.engine.stats().adapters)
    rig.executor.gate.set()
    assert isinstance(running.end(), Completed)
    assert isinstance(queued.end(), Completed)
    told = dict.fromkeys((adapters.running, adapters.waiting) for adapters in seen)
    assert (("a",), ("a", "b")) in told
    assert list(told)[-1] == (("a", "b"), ())


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


def test_what_is_in_host_memory_waits_for_no_reading(rig: Rig) -> None:
    rig.loader.hold, rig.loader.bound = True, frozenset({unit_of(use("kept"))})
    cold = [rig.submit(str(n), adapters=(use(f"a{n}"),)) for n in range(5)]
    assert isinstance(rig.submit("warm", adapters=(use("kept"),)).end(), Completed)
    assert rig.loader.asked == ["a0", "a1", "a2", "a3", "kept"]
    rig.loader.hold = False
    for finish in list(rig.loader.held.values()):
        finish()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in cold)


def test_a_flood_does_not_starve_what_host_memory_has_no_room_for(rig: Rig) -> None:
    rig.loader.limit_bytes = 0
    rig.hold()
    flood = [rig.submit(f"plain{number}") for number in range(40)]
    rig.wait_held()
    cold = rig.submit("cold", adapters=(use("cold"),))
    rig.executor.gate.set()
    assert all(isinstance(mailbox.end(), Completed) for mailbox in [*flood, cold])
    order = [name for _, names in rig.executor.ticks for name in names]
    last = len(order) - order[::-1].index("cold")
    assert len(set(order[last:])) > 20


def test_tokens_make_way_when_host_memory_is_full(rig: Rig) -> None:
    rig.loader.limit_bytes = 20
    for number in range(5):
        rig.submit(adapters=(use(f"token{number}"),)).end()
    rig.settle()
    assert resident(rig) == {"token2", "token3", "token4"}
    assert rig.loader.most_bytes <= 24


def test_eviction_frees_the_memory_of_tokens(rig: Rig) -> None:
    rig.submit(adapters=(use("token-a"),)).end()
    rig.settle()
    assert sum(rig.loader.in_memory.values()) == 8
    pin(rig, "token-a")
    assert unpin(rig, "token-a", evict=True) is None
    assert sum(rig.loader.in_memory.values()) == 0


def test_the_device_holds_no_tokens(rig: Rig) -> None:
    rig.submit(adapters=(use("token-a"), use("b"))).end()
    rig.settle()
    assert rig.engine.stats().adapters.pool.size_bytes == 8
