"""Embeddings come in the order they are asked for, read ahead, within bounds."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice

import pytest

from diptych.clients.prefetching import read_ahead
from diptych.digest import Digest
from diptych.errors import EmbeddingMissing


def key(number: int) -> Digest:
    return Digest.of_bytes(str(number).encode())


class Reads:
    """Answers at once and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[Digest]] = []
        self.seen = threading.Event()

    def __call__(self, keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        self.batches.append(list(keys))
        self.seen.set()
        return {one: one.hex.encode() for one in keys}


def test_yields_in_the_order_asked_for_with_repeats() -> None:
    wanted = [key(3), key(1), key(3), key(2)]
    found = list(read_ahead(wanted, Reads(), batch_size=3))
    assert found == [(one, one.hex.encode()) for one in wanted]


def test_equal_keys_of_a_batch_are_read_once() -> None:
    reads = Reads()
    list(read_ahead([key(1), key(1), key(2)], reads, batch_size=8))
    assert reads.batches == [[key(1), key(2)]]


def test_keys_may_be_endless_and_are_not_drawn_far_ahead() -> None:
    drawn = count()
    keys = (key(number) for number in drawn)
    assert len(list(islice(read_ahead(keys, Reads(), batch_size=2, num_ahead=2), 6))) == 6
    assert next(drawn) <= 6 + 2 * (2 + 2)


def test_what_a_read_raises_comes_in_its_place() -> None:
    def fail(keys: Sequence[Digest]) -> Mapping[Digest, bytes]:
        if key(2) in keys:
            raise EmbeddingMissing(str(key(2)))
        return dict.fromkeys(keys, b"x")

    found = read_ahead([key(1), key(2)], fail, batch_size=1)
    assert next(found) == (key(1), b"x")
    with pytest.raises(EmbeddingMissing):
        next(found)


def test_what_the_keys_raise_is_raised() -> None:
    def keys() -> Iterator[Digest]:
        yield key(1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(read_ahead(keys(), Reads(), batch_size=8))


def test_thread_ends_with_the_iterator() -> None:
    before = threading.active_count()
    found = read_ahead((key(n) for n in count()), Reads(), batch_size=1, num_ahead=1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
