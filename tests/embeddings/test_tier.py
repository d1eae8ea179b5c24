"""A tier that fails is passed over for as long as its failing was dear."""

import pytest

from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.tier import Tier
from diptych.embeddings.tiers import NO_OBSERVER
from diptych.errors import SourceUnavailable
from diptych.storage.memory import MemoryBlobs
from support.packed import data_of, key_of, small_store

AWAY = SourceUnavailable("s3://bucket", "is away")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> PackStore:
    store = small_store(MemoryBlobs())
    store.put(key_of(1), data_of(1))
    return store


@pytest.fixture
def tier(store: PackStore, clock: Clock) -> Tier:
    return Tier("remote", store, NO_OBSERVER, clock=clock)


def test_hands_out_what_there_is(tier: Tier) -> None:
    assert tier.get(key_of(1)) == data_of(1)
    assert list(tier.read_many([key_of(1), key_of(2)])) == [(key_of(1), data_of(1))]
    assert tier.missing([key_of(1), key_of(2)]) == [key_of(2)]


def test_resting_has_nothing(tier: Tier) -> None:
    tier.read_failed(AWAY)
    assert tier.get(key_of(1)) is None
    assert list(tier.read_many([key_of(1)])) == []
    assert tier.missing([key_of(1)]) == [key_of(1)]


@pytest.mark.parametrize(("after_s", "rest_s"), [(0.0, 10.0), (1.0, 10.0), (20.0, 100.0)])
def test_rests_longer_the_longer_it_took_to_fail(
    tier: Tier, clock: Clock, after_s: float, rest_s: float
) -> None:
    tier.read_failed(AWAY, after_s)
    clock.now_s = rest_s - 0.1
    assert tier.rests
    clock.now_s = rest_s
    assert not tier.rests


def test_rests_for_minutes_at_most(tier: Tier, clock: Clock) -> None:
    tier.read_failed(AWAY, 1e6)
    clock.now_s = 300.0
    assert not tier.rests
