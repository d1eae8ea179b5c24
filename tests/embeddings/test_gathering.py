"""Entries wait until they are enough or one is old, and can be read all the while."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.embeddings.gathering import Gathering, GatheringStats
from diptych.errors import StoreFull

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


class Sink:
    """Keeps what is written; may be told to fail or to wait."""

    def __init__(self) -> None:
        self.batches: list[Mapping[bytes, bytes]] = []
        self.is_full = False
        self.entered, self.go_on, self.written = (threading.Event() for _ in range(3))
        self.go_on.set()

    def write(self, batch: Mapping[bytes, bytes]) -> None:
        self.entered.set()
        self.go_on.wait()
        if self.is_full:
            raise StoreFull(location="sink", size_bytes=1)
        self.batches.append(dict(batch))
        self.written.set()


@pytest.fixture
def sink() -> Sink:
    return Sink()


def gathering(sink: Sink, *, limit_bytes: int = 10, max_age_s: float = 60.0) -> Gathering:
    return Gathering(sink.write, limit_bytes=limit_bytes, max_age_s=max_age_s)


def test_entries_are_written_when_they_are_enough(sink: Sink) -> None:
    gathered = gathering(sink)
    gathered.put(A, b"12345")
    assert sink.batches == []
    assert gathered.get(A) == b"12345"
    gathered.put(B, b"67890")
    assert sink.batches == [{A: b"12345", B: b"67890"}]
    assert gathered.get(A) is None


def test_entries_are_written_when_one_has_waited_long_enough(sink: Sink) -> None:
    gathering(sink, max_age_s=0.01).put(A, b"1")
    assert sink.written.wait(5)
    assert sink.batches == [{A: b"1"}]


def test_the_same_entry_waits_once(sink: Sink) -> None:
    gathered = gathering(sink)
    gathered.put(A, b"12345")
    gathered.put(A, b"12345")
    gathered.flush()
    assert sink.batches == [{A: b"12345"}]


def test_flushing_nothing_writes_nothing(sink: Sink) -> None:
    gathering(sink).flush()
    assert sink.batches == []


def test_entries_can_be_read_while_they_are_written(sink: Sink) -> None:
    gathered = gathering(sink)
    sink.go_on.clear()
    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(gathered.put, A, b"much more than enough")
        sink.entered.wait()
        assert gathered.get(A) == b"much more than enough"
        flushed = pool.submit(gathered.flush)
        assert not flushed.done()
        sink.go_on.set()
        writer.result()
        flushed.result()
    assert len(sink.batches) == 1


def test_what_cannot_be_written_is_told_counted_and_let_go(sink: Sink) -> None:
    gathered = gathering(sink)
    sink.is_full = True
    gathered.put(A, b"1")
    gathered.put(B, b"2")
    with pytest.raises(StoreFull):
        gathered.put(C, b"much more than enough")
    assert gathered.stats == GatheringStats(num_waiting=0, num_failed_writes=1, num_lost=3)
    sink.is_full = False
    gathered.put(A, b"1")
    gathered.flush()
    assert sink.batches == [{A: b"1"}]


def test_a_late_write_that_fails_is_counted(sink: Sink) -> None:
    gathered = gathering(sink, max_age_s=0.01)
    sink.is_full = True
    gathered.put(A, b"1")
    assert sink.entered.wait(5)
    gathered.flush()
    assert gathered.stats.num_lost == 1
