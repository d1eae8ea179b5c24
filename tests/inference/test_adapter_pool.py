"""The pool never takes what is in use, and what it gives up is what was used longest ago."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from diptych.errors import AdapterInUse, AdapterSlotsFull
from diptych.inference.adapter_pool import AdapterPool, Holder, Tier
from diptych.inference.adapter_units import Member, Unit


def unit(name: str) -> Unit:
    return Unit(members=(Member(digest=name),))


A, B, C = (unit(name) for name in "abc")
ONE, TWO = (Holder(tenant="studio", request=number) for number in (1, 2))
THEIRS = Holder(tenant="lab", request=3)


def pool_with(*units: Unit, lines: int = 4, num_lines: int = 8) -> AdapterPool:
    """Return a pool that holds ``units`` on the device, attached in this order."""
    pool = AdapterPool(num_lines=num_lines, slice_s=2.0)
    for own in units:
        load(pool, own, lines)
        pool.attached(own, 0.0)
    return pool


def load(pool: AdapterPool, own: Unit, lines: int = 4) -> None:
    pool.begin(own)
    pool.loaded(own, lines)


def test_free_lines_evict_nothing() -> None:
    pool = pool_with(A)
    load(pool, B)
    assert pool.make_room([B]) == ()


def test_evicts_the_least_recently_used() -> None:
    pool = pool_with(A, B)
    pool.acquire([A], ONE)
    pool.release([A], ONE)
    load(pool, C)
    assert pool.make_room([C]) == (B,)


def test_what_is_in_use_stays() -> None:
    pool = pool_with(A, B)
    pool.acquire([A, B], ONE)
    load(pool, C)
    assert pool.make_room([C]) is None


def test_what_is_pinned_stays() -> None:
    pool = pool_with(A, B)
    pool.pin(A, "studio", "call")
    load(pool, C)
    assert pool.make_room([C]) == (B,)


def test_a_call_does_not_evict_its_own() -> None:
    pool = pool_with(A, B)
    load(pool, C)
    assert pool.make_room([A, C]) == (B,)


def test_what_never_fits_is_refused() -> None:
    pool = pool_with()
    load(pool, A, lines=9)
    with pytest.raises(AdapterSlotsFull, match="total rank 9 do not fit the 8"):
        pool.check_fits([A])


def test_what_does_not_fit_beside_pins_is_refused() -> None:
    pool = pool_with(A)
    pool.pin(A, "studio", "call")
    load(pool, B, lines=5)
    with pytest.raises(AdapterSlotsFull):
        pool.check_fits([B])


def test_tokens_alone_take_no_lines() -> None:
    pool = pool_with(A, B)
    load(pool, C, lines=0)
    assert pool.make_room([C]) == ()


def test_tokens_that_may_go_are_named_the_least_recently_used_first() -> None:
    pool = AdapterPool(num_lines=16, slice_s=2.0)
    for name, token_bytes in {"a": 8, "b": 0, "c": 8, "d": 8}.items():
        pool.begin(unit(name))
        assert pool.num_loading == 1
        pool.loaded(unit(name), 0, token_bytes=token_bytes)
        pool.attached(unit(name), 0.0)
    pool.acquire([unit("a")], ONE)
    pool.release([unit("a")], ONE)
    pool.pin(unit("d"), "studio", "call")
    assert pool.num_loading == 0
    assert pool.idle_with_tokens() == (unit("c"), unit("a"))


def test_yields_after_its_slice() -> None:
    pool = pool_with(A)
    assert [pool.must_yield([A], now) for now in (1.9, 2.0)] == [False, True]


def test_what_has_no_lines_yet_takes_none_from_those_who_wait() -> None:
    pool = pool_with(A)
    load(pool, B)
    assert pool.must_yield([B], 0.0)


def test_a_pinned_one_need_not_yield() -> None:
    pool = pool_with(A)
    pool.pin(A, "studio", "call")
    assert not pool.must_yield([A], 100.0)


def test_counts_requests_and_not_their_images() -> None:
    pool = pool_with(A)
    for holder in (ONE, ONE, TWO):
        pool.acquire([A], holder)
    with pytest.raises(AdapterInUse, match="huggy is in use by 2 requests"):
        pool.check_unused(A, "studio", "huggy")
    assert pool.stats().users == {("studio", "a"): 2}


def test_a_request_whose_images_have_all_ended_is_counted_no_more() -> None:
    pool = pool_with(A)
    for _ in range(2):
        pool.acquire([A], ONE)
    pool.release([A], ONE)
    assert pool.stats().users == {("studio", "a"): 1}
    pool.release([A], ONE)
    assert pool.stats().users == {}


def test_requests_of_another_tenant_are_not_told() -> None:
    pool = pool_with(A)
    pool.acquire([A], THEIRS)
    pool.check_unused(A, "studio", "huggy")
    assert not pool.is_idle(A)


def test_each_tenant_has_a_pin_of_its_own() -> None:
    pool = pool_with(A)
    for tenant in ("studio", "lab"):
        pool.pin(A, tenant, "call")
    assert pool.unpin(A, "lab")
    assert pool.stats().pins == (("studio", "a"),)
    assert not pool.is_idle(A)


def test_a_tenant_has_one_pin_however_often_it_asks() -> None:
    pool = pool_with(A)
    for call in ("first", "second"):
        pool.pin(A, "studio", call)
    assert [pool.unpin(A, "studio") for _ in range(2)] == [True, False]


def test_a_pin_goes_with_the_last_of_those_who_asked_for_it_and_have_not_heard() -> None:
    pool = pool_with(A)
    for call in ("first", "second"):
        pool.pin(A, "studio", call)
    pool.withdraw(A, "studio", "first")
    assert pool.stats().pins == (("studio", "a"),)
    pool.withdraw(A, "studio", "second")
    assert pool.stats().pins == ()


def test_a_pin_that_somebody_heard_of_stays() -> None:
    pool = pool_with(A)
    for call in ("first", "second"):
        pool.pin(A, "studio", call)
    pool.confirm(A, "studio", "second")
    for call in ("first", "second"):
        pool.withdraw(A, "studio", call)
    assert pool.stats().pins == (("studio", "a"),)


def test_a_late_answer_confirms_no_later_pin() -> None:
    pool = pool_with(A)
    pool.pin(A, "studio", "first")
    pool.unpin(A, "studio")
    pool.pin(A, "studio", "second")
    pool.confirm(A, "studio", "first")
    pool.withdraw(A, "studio", "second")
    assert pool.stats().pins == ()


def test_withdrawing_a_pin_that_is_gone_changes_nothing() -> None:
    pool = pool_with(A)
    pool.withdraw(A, "studio", "call")
    pool.withdraw(B, "studio", "call")
    pool.confirm(B, "studio", "call")
    assert pool.stats().pins == ()


def test_counts_what_happens() -> None:
    pool = pool_with(A, B)
    pool.hit()
    pool.evicted(A)
    stats = pool.stats()
    assert (stats.num_hits, stats.num_misses, stats.num_evictions) == (1, 2, 1)
    assert (stats.lines_used, stats.resident) == (4, ("b",))


class Traffic(RuleBasedStateMachine):
    """Adapters come, are held and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = AdapterPool(num_lines=16, slice_s=1.0)
        self.held: list[tuple[Holder, tuple[Unit, ...]]] = []

    @rule(name=st.integers(0, 9), lines=st.integers(0, 12))
    def arrive(self, name: int, lines: int) -> None:
        if self.pool.tier(unit(str(name))) is Tier.ABSENT:
            load(self.pool, unit(str(name)), lines)

    @rule(
        names=st.sets(st.integers(0, 9), min_size=1, max_size=3),
        holder=st.sampled_from([ONE, TWO, THEIRS]),
    )
    def start(self, names: set[int], holder: Holder) -> None:
        units = tuple(unit(str(name)) for name in sorted(names))
        if any(self.pool.tier(own) is Tier.ABSENT for own in units):
            return
        room = self.pool.make_room(units)
        if room is None:
            return
        for idle in room:
            assert not any(idle in held for _, held in self.held)
            assert not any(idle == unit(digest) for _, digest in self.pool.stats().pins)
            self.pool.evicted(idle)
        for own in units:
            if self.pool.tier(own) is Tier.HOST:
                self.pool.attached(own, 0.0)
        self.pool.acquire(units, holder)
        self.held.append((holder, units))

    @rule(name=st.integers(0, 9), tenant=st.sampled_from(["studio", "lab"]))
    def pin(self, name: int, tenant: str) -> None:
        if self.pool.tier(unit(str(name))) is Tier.DEVICE:
            self.pool.pin(unit(str(name)), tenant, "call")

    @rule(name=st.integers(0, 9), tenant=st.sampled_from(["studio", "lab"]))
    def unpin(self, name: int, tenant: str) -> None:
        was_pinned = (tenant, str(name)) in self.pool.stats().pins
        assert self.pool.unpin(unit(str(name)), tenant) == was_pinned

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        holder, units = self.held.pop(which % len(self.held))
        self.pool.release(units, holder)

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert self.pool.stats().lines_used <= 16

    @invariant()
    def what_is_held_is_there(self) -> None:
        assert all(self.pool.tier(u) is Tier.DEVICE for _, held in self.held for u in held)


TestTraffic = Traffic.TestCase
