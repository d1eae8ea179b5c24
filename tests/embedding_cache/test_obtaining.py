"""A missing embedding is made once, however many ask for it at the same time."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from diptych.digest import Digest
from diptych.embedding_cache.obtaining import Makes, Obtaining
from diptych.embedding_cache.ports import CacheMode
from diptych.errors import EmbeddingMissing, ImageInvalid
from support.embedding_stores import FakeStore

NUM_THREADS = 8
NOBODY_ELSE = sys.getrefcount([object()][0]) + 2
"""The list, the loop's variable and the argument."""
KEYS = [Digest.of_bytes(bytes([number])) for number in range(50)]


class Maker:
    """Makes values in threads of its own and counts how often it did."""

    def __init__(self) -> None:
        self.counts: dict[Digest, int] = {}
        self.broken: set[Digest] = set()
        self._lock = threading.Lock()
        self.threads = ThreadPoolExecutor(4)

    def make(self, key: Digest) -> Future[bytes]:
        return self.threads.submit(self._work, key)

    def _work(self, key: Digest) -> bytes:
        with self._lock:
            self.counts[key] = self.counts.get(key, 0) + 1
        if key in self.broken:
            raise ImageInvalid("a.png", "is cut")
        return key.hex.encode()

    def makes(self, keys: list[Digest]) -> Makes:
        return {key: partial(self.make, key) for key in keys}


@pytest.fixture
def maker() -> Iterator[Maker]:
    maker = Maker()
    yield maker
    maker.threads.shutdown()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield threads


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def obtaining(store: FakeStore, threads: ThreadPoolExecutor) -> Obtaining:
    return Obtaining(store, threads)


async def ask(
    obtaining: Obtaining,
    maker: Maker,
    keys: list[Digest],
    mode: CacheMode = CacheMode.READ_THROUGH,
) -> dict[Digest, bytes | None]:
    found = await obtaining.obtain(maker.makes(keys), kind="prompt", mode=mode, with_values=True)
    return {key: one.value for key, one in found.items()}


async def test_thousand_askers_of_fifty_keys_cause_fifty_encodes(
    obtaining: Obtaining, maker: Maker
) -> None:
    asked = [[KEYS[number % 50], KEYS[number * 7 % 50]] for number in range(1000)]
    answers = await asyncio.gather(*(ask(obtaining, maker, keys) for keys in asked))
    assert sum(maker.counts.values()) == 50
    assert all(value == key.hex.encode() for one in answers for key, value in one.items())


async def test_second_asker_finds_what_the_first_one_made(
    obtaining: Obtaining, maker: Maker
) -> None:
    await ask(obtaining, maker, KEYS[:1])
    found = await obtaining.obtain(
        maker.makes(KEYS[:1]), kind="prompt", mode=CacheMode.READ_THROUGH, with_values=False
    )
    assert (found[KEYS[0]].source, found[KEYS[0]].value) == ("memory", None)


async def test_error_reaches_all_who_asked_for_that_key_and_nobody_else(
    obtaining: Obtaining, maker: Maker
) -> None:
    maker.broken = {KEYS[0]}
    asked = [KEYS[:1]] * 5 + [KEYS[1:2]]
    results = await asyncio.gather(
        *(ask(obtaining, maker, keys) for keys in asked), return_exceptions=True
    )
    assert [type(one) for one in results] == [ImageInvalid] * 5 + [dict]


async def test_neighbours_of_a_broken_one_in_the_same_call_are_kept(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    maker.broken = {KEYS[0]}
    with pytest.raises(ImageInvalid):
        await ask(obtaining, maker, KEYS[:3])
    assert set(store.values) == set(KEYS[1:3])


async def test_failed_key_is_tried_again_by_the_next_asker(
    obtaining: Obtaining, maker: Maker
) -> None:
    maker.broken = {KEYS[0]}
    with pytest.raises(ImageInvalid):
        await ask(obtaining, maker, KEYS[:1])
    maker.broken = set()
    assert await ask(obtaining, maker, KEYS[:1]) == {KEYS[0]: KEYS[0].hex.encode()}


async def test_asker_who_leaves_does_not_take_the_flight_along(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    store.gate.clear()
    leaving = asyncio.ensure_future(ask(obtaining, maker, KEYS[:1]))
    staying = asyncio.ensure_future(ask(obtaining, maker, KEYS[:1]))
    await asyncio.sleep(0)
    leaving.cancel()
    store.gate.set()
    assert await staying == {KEYS[0]: KEYS[0].hex.encode()}


async def test_read_only_makes_nothing(obtaining: Obtaining, maker: Maker) -> None:
    with pytest.raises(EmbeddingMissing, match="and 2 more"):
        await ask(obtaining, maker, KEYS[:3], CacheMode.READ_ONLY)
    assert maker.counts == {}


async def test_bypass_neither_reads_nor_keeps(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    await ask(obtaining, maker, KEYS[:1], CacheMode.BYPASS)
    await ask(obtaining, maker, KEYS[:1], CacheMode.BYPASS)
    assert (maker.counts[KEYS[0]], store.values) == (2, {})


async def test_a_miss_and_a_hit_are_each_counted_once(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    await ask(obtaining, maker, KEYS[:1])
    await ask(obtaining, maker, KEYS[:1])
    assert store.counted == {(None, "prompt"): 1, ("memory", "prompt"): 1}


async def test_read_only_call_counts_what_it_misses(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    with pytest.raises(EmbeddingMissing):
        await ask(obtaining, maker, KEYS[:3], CacheMode.READ_ONLY)
    assert store.counted == {(None, "prompt"): 3}


async def test_values_that_nobody_asked_for_are_not_held(
    obtaining: Obtaining, maker: Maker, store: FakeStore
) -> None:
    values = [key.hex.encode() for key in KEYS[:-1]]
    last: Future[bytes] = Future()
    made = zip(KEYS[:-1], values, strict=True)
    makes: dict[Digest, Callable[[], Future[bytes]]] = {
        key: partial(maker.threads.submit, lambda v: v, value) for key, value in made
    }
    makes[KEYS[-1]] = lambda: last
    call = asyncio.ensure_future(
        obtaining.obtain(makes, kind="prompt", mode=CacheMode.READ_THROUGH, with_values=False)
    )
    while len(store.values) < len(values):  # noqa: ASYNC110 - a store that threads fill
        await asyncio.sleep(0.01)
    store.values.clear()
    makes.clear()
    await asyncio.sleep(0.05)
    gc.collect()
    num_held = sum(sys.getrefcount(value) > NOBODY_ELSE for value in values)
    assert num_held <= NUM_THREADS  # a thread may hold what it did last
    last.set_result(b"last")
    assert len(await call) == len(KEYS)
