"""Pins belong to tenants, and to nobody whose call has ended without its answer."""

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
)
from diptych.inference.trajectory import Completed
from support.fake_device import Rig, use
from support.pinning import Answer, pin, resident, unpin


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(num_slots=4, max_rows=8, max_waiting=64, adapter_lines=8)
    rig.start()
    yield rig
    rig.executor.gate.set()
    rig.engine.stop()


def test_a_pinned_adapter_stays(rig: Rig) -> None:
    pin(rig, "a")
    for name in ("b", "c", "d"):
        rig.submit(adapters=(use(name),)).end()
    assert "a" in resident(rig)


def test_whoever_hears_of_a_pin_sees_it(rig: Rig) -> None:
    seen: list[tuple[tuple[str, str], ...]] = []
    answer = Answer()

    def look(error: DiptychError | None) -> None:
        seen.append(rig.engine.stats().adapters.pool.pins)
        answer(error)

    rig.engine.load_adapter(use("a"), look)
    assert answer.get() is None
    assert seen == [(("default", "sha256:a"),)]


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
    assert unpin(rig, "a") is None
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
    assert isinstance(unpin(rig, "a"), AdapterNotFound)


def test_a_pin_that_does_not_fit_is_refused(rig: Rig) -> None:
    answers = [Answer(), Answer()]
    for name, answer in zip(("a-r8", "b-r1"), answers, strict=True):
        rig.engine.load_adapter(use(name), answer)
    assert answers[0].get() is None
    assert isinstance(answers[1].get(), AdapterSlotsFull)


def test_a_request_that_only_pins_keep_out_is_refused(rig: Rig) -> None:
    pin(rig, "a-r8")
    assert isinstance(rig.submit(adapters=(use("b"),)).error(), AdapterSlotsFull)


def test_in_use_counts_requests_and_not_their_images(rig: Rig) -> None:
    pin(rig, "a")
    rig.hold()
    running = rig.submit(adapters=(use("a"),), num_images=3)
    rig.wait_held()
    answer = Answer()
    rig.engine.unload_adapter(use("a"), evict=True, done=answer)
    rig.executor.gate.set()
    refusal = answer.get()
    assert isinstance(refusal, AdapterInUse)
    assert (refusal.num_requests, str(refusal)) == (1, "adapter a is in use by 1 request")
    assert isinstance(running.end(), Completed)


def test_a_pin_survives_the_unload_of_another_tenant(rig: Rig) -> None:
    pin(rig, "a", "studio")
    pin(rig, "a", "lab")
    assert unpin(rig, "a", "lab") is None
    for name in ("b", "c", "d"):
        rig.submit(adapters=(use(name),)).end()
    assert "a" in resident(rig)


def test_a_tenant_without_a_pin_releases_none(rig: Rig) -> None:
    pin(rig, "a", "studio")
    assert isinstance(unpin(rig, "a", "lab", evict=True), AdapterNotFound)
    assert rig.engine.stats().adapters.pool.pins == (("studio", "sha256:a"),)


def test_eviction_leaves_what_another_tenant_has_pinned(rig: Rig) -> None:
    pin(rig, "a", "studio")
    pin(rig, "a", "lab")
    assert unpin(rig, "a", "lab", evict=True) is None
    assert "a" in resident(rig)
    assert unpin(rig, "a", "studio", evict=True) is None
    assert "a" not in resident(rig)


def test_eviction_leaves_what_another_tenant_runs_with(rig: Rig) -> None:
    pin(rig, "a", "lab")
    rig.hold()
    running = rig.submit(adapters=(use("a", tenant="studio"),))
    rig.wait_held()
    answer = Answer()
    rig.engine.unload_adapter(use("a", tenant="lab"), evict=True, done=answer)
    rig.executor.gate.set()
    assert answer.get() is None
    assert isinstance(running.end(), Completed)
    assert rig.engine.stats().adapters.pool.pins == ()


def test_pinning_twice_is_pinning_once(rig: Rig) -> None:
    for _ in range(2):
        pin(rig, "a")
    assert unpin(rig, "a") is None
    assert isinstance(unpin(rig, "a"), AdapterNotFound)


def test_a_pin_that_is_given_up_while_it_loads_leaves_nothing(rig: Rig) -> None:
    rig.loader.hold = True
    ticket = rig.engine.load_adapter(use("a"), Answer())
    rig.settle()
    ticket.give_up()
    rig.settle()
    rig.loader.held.pop("a")()
    rig.settle()
    assert resident(rig) == set()
    assert rig.engine.stats().adapters.pool.pins == ()


def test_a_pin_that_is_given_up_after_it_was_made_is_released(rig: Rig) -> None:
    answer = Answer()
    ticket = rig.engine.load_adapter(use("a"), answer)
    assert answer.get() is None
    ticket.give_up()
    rig.settle()
    assert rig.engine.stats().adapters.pool.pins == ()


def test_giving_up_a_second_pin_leaves_the_first(rig: Rig) -> None:
    pin(rig, "a")
    answer = Answer()
    ticket = rig.engine.load_adapter(use("a"), answer)
    assert answer.get() is None
    ticket.give_up()
    rig.settle()
    assert rig.engine.stats().adapters.pool.pins == (("default", "sha256:a"),)


def test_one_of_two_who_wait_for_a_pin_may_go(rig: Rig) -> None:
    rig.loader.hold = True
    answers = [Answer(), Answer()]
    first, second = (rig.engine.load_adapter(use("a"), answer) for answer in answers)
    rig.settle()
    first.give_up()
    rig.settle()
    rig.loader.held.pop("a")()
    assert answers[1].get() is None
    second.keep()
    rig.settle()
    assert rig.engine.stats().adapters.pool.pins == (("default", "sha256:a"),)


OURS, THEIRS = ("studio", "sha256:a"), ("lab", "sha256:a")


def test_the_file_of_what_is_pinned_is_kept(rig: Rig) -> None:
    for _ in range(2):
        pin(rig, "a")
    assert rig.loader.kept == {("default", "sha256:a")}
    assert unpin(rig, "a") is None
    assert rig.loader.kept == set()


def test_the_file_of_what_cannot_be_pinned_is_not(rig: Rig) -> None:
    for name in ("broken", "a-r9", "unattachable"):
        answer = Answer()
        rig.engine.load_adapter(use(name), answer)
        assert isinstance(answer.get(), DiptychError)
    assert rig.loader.kept == set()


def test_a_file_is_kept_for_each_tenant_that_has_a_pin(rig: Rig) -> None:
    pin(rig, "a", "studio")
    pin(rig, "a", "lab")
    assert rig.loader.kept == {OURS, THEIRS}
    assert unpin(rig, "a", "studio", evict=True) is None
    assert rig.loader.kept == {THEIRS}
    assert unpin(rig, "a", "lab", evict=True) is None
    assert rig.loader.kept == set()


def test_no_file_is_kept_for_whoever_only_waits_for_a_pin(rig: Rig) -> None:
    rig.loader.hold = True
    ticket = rig.engine.load_adapter(use("a"), Answer())
    rig.settle()
    ticket.give_up()
    rig.loader.held.pop("a")()
    rig.settle()
    assert rig.loader.kept == set()
    assert sum(rig.loader.in_memory.values()) == 0


def test_a_file_is_kept_while_one_call_of_two_wants_its_pin(rig: Rig) -> None:
    answers = [Answer(), Answer()]
    tickets = [rig.engine.load_adapter(use("a"), answer) for answer in answers]
    kept = []
    for answer, ticket in zip(answers, tickets, strict=True):
        assert answer.get() is None
        ticket.give_up()
        rig.settle()
        kept.append(len(rig.loader.kept))
    assert kept == [1, 0]


def test_a_file_is_let_go_with_a_pin_that_is_given_up_after_it_was_made(rig: Rig) -> None:
    answer = Answer()
    ticket = rig.engine.load_adapter(use("a"), answer)
    assert answer.get() is None
    assert rig.loader.kept == {("default", "sha256:a")}
    ticket.give_up()
    rig.settle()
    assert rig.loader.kept == set()


def test_requests_and_pins_that_wait_for_a_broken_load_both_hear_of_it(rig: Rig) -> None:
    rig.loader.hold = True
    answer = Answer()
    rig.engine.load_adapter(use("broken"), answer)
    request = rig.submit(adapters=(use("broken"),))
    rig.settle()
    rig.loader.held.pop("broken")()
    assert isinstance(answer.get(), AdapterInvalid)
    assert isinstance(request.error(), AdapterInvalid)
    assert rig.loader.asked == ["broken"]
    assert rig.loader.kept == set()


def test_a_pin_outlives_the_broken_load_of_another_tenant(rig: Rig) -> None:
    rig.loader.hold = True
    theirs = rig.submit(adapters=(use("broken", tenant="lab", digest="sha256:a"),))
    answer = Answer()
    rig.engine.load_adapter(use("a", tenant="studio"), answer).keep()
    rig.settle()
    rig.loader.hold = False
    rig.loader.held.pop("broken")()
    assert isinstance(theirs.error(), AdapterInvalid)
    assert answer.get() is None
    assert rig.engine.stats().adapters.pool.pins == (OURS,)
    assert rig.loader.kept == {OURS}


def test_a_request_outlives_the_broken_pin_of_another_tenant(rig: Rig) -> None:
    rig.loader.hold = True
    answer = Answer()
    rig.engine.load_adapter(use("broken", tenant="lab", digest="sha256:a"), answer)
    own = rig.submit(adapters=(use("a", tenant="studio"),))
    rig.settle()
    rig.loader.hold = False
    rig.loader.held.pop("broken")()
    assert isinstance(answer.get(), AdapterInvalid)
    assert isinstance(own.end(), Completed)
    assert rig.loader.kept == set()


def test_a_pin_of_a_full_host_memory_evicts_no_pinned_tokens(rig: Rig) -> None:
    rig.loader.limit_bytes = 8
    for name in ("token-a", "token-b", "c"):
        pin(rig, name)
    assert resident(rig) == {"token-a", "token-b", "c"}
    assert sum(rig.loader.in_memory.values()) == 16
