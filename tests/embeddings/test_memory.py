"""The memory tier keeps what was used last, and never more than it may."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from diptych.embeddings.memory import MemoryTier
from support.packed import key_of

A, B, C = key_of(1), key_of(2), key_of(3)


def test_hands_out_what_was_put() -> None:
    tier = MemoryTier(10)
    tier.put(A, b"abc")
    assert tier.get(A) == b"abc"
    assert tier.get(B) is None
    assert tier.has(A)


def test_the_entry_unused_for_longest_goes() -> None:
    tier = MemoryTier(6)
    tier.put(A, b"abc")
    tier.put(B, b"def")
    tier.get(A)
    tier.put(C, b"ghi")
    assert [tier.get(key) for key in (A, B, C)] == [b"abc", None, b"ghi"]
    assert tier.stats.num_evicted == 1


def test_what_is_larger_than_all_that_may_be_kept_evicts_nothing() -> None:
    tier = MemoryTier(6)
    tier.put(A, b"abc")
    tier.put(B, b"much too large")
    assert (tier.get(A), tier.get(B)) == (b"abc", None)


def test_what_was_dropped_is_gone() -> None:
    tier = MemoryTier(6)
    tier.put(A, b"abc")
    tier.drop(A)
    tier.drop(B)
    assert tier.get(A) is None
    assert tier.stats.size_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60))
def test_it_never_holds_more_than_it_may(puts: list[tuple[int, int]]) -> None:
    tier = MemoryTier(100)
    for number, size in puts:
        tier.put(key_of(number), bytes(size))
        held = [tier.get(key_of(other)) for other in range(10)]
        assert tier.stats.size_bytes == sum(len(data) for data in held if data is not None) <= 100


def test_tells_the_digest_of_what_it_holds_now() -> None:
    tier = MemoryTier(10)
    for data in (b"abc", b"defg"):
        tier.put(A, data)
        held = tier.held(A)
        assert held is not None
        assert (held.data, held.sha256) == (data, hashlib.sha256(data).digest())
        assert held.sha256 is held.sha256
