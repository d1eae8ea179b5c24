"""Works meet in batches, each key is encoded once, and nobody pays for a neighbour."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from diptych.digest import Digest
from diptych.embedding_cache.batching import BatchConfig, Batcher
from diptych.errors import Draining, ImageInvalid, OutOfDeviceMemory, QueueFull

TIMEOUT_S = 30.0
AT_ONCE = BatchConfig(max_wait_s=0.0)


def key(name: str) -> Digest:
    return Digest.of_bytes(name.encode())


@dataclass
class Device:
    """Encodes ``shape:name`` to its bytes, when it is let, and remembers the batches."""

    capacity: int = 100
    gate: threading.Event = field(default_factory=threading.Event)
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list[tuple[str, ...]] = field(default_factory=list)

    def encode(self, works: Sequence[str]) -> list[bytes]:
        self.batches.append(tuple(works))
        self.began.release()
        assert self.gate.wait(TIMEOUT_S)
        if len(works) > self.capacity:
            raise OutOfDeviceMemory(width=64, height=64)
        if any("bad" in work for work in works):
            raise ImageInvalid("x.png", "is bad")
        return [work.encode() for work in works]

    @property
    def encoded(self) -> Counter[str]:
        return Counter(work for batch in self.batches for work in batch)


@dataclass
class Shelf:
    """Entries in memory."""

    held: dict[Digest, bytes] = field(default_factory=dict)
    is_full: bool = False

    def get(self, key: Digest) -> bytes | None:
        return self.held.get(key)

    def put(self, key: Digest, data: bytes) -> None:
        if self.is_full:
            raise OSError("no room")
        self.held[key] = data


@dataclass
class Ear:
    """Hears of batches."""

    sizes: list[int] = field(default_factory=list)

    def on_batch(self, *, shape: Hashable, size: int, seconds: float) -> None:
        assert shape is not None
        assert seconds >= 0
        self.sizes.append(size)


@dataclass
class Setting:
    """A batcher and what is around it."""

    device: Device = field(default_factory=Device)
    shelf: Shelf = field(default_factory=Shelf)
    ear: Ear = field(default_factory=Ear)
    made: list[Batcher[str]] = field(default_factory=list)

    def batcher(self, config: BatchConfig = AT_ONCE) -> Batcher[str]:
        made = Batcher(
            self.device.encode,
            shape_of=lambda work: work.split(":")[0],
            entries=self.shelf,
            observer=self.ear,
            config=config,
        )
        self.made.append(made)
        return made

    def busy(self, config: BatchConfig = AT_ONCE) -> Batcher[str]:
        """Return a batcher whose device is held up by one work, so that others gather."""
        made = self.batcher(config)
        made.submit(key("busy"), "busy:busy")
        assert self.device.began.acquire(timeout=TIMEOUT_S)
        return made


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.device.gate.set()
    for batcher in made.made:
        batcher.close()


def ask(batcher: Batcher[str], work: str) -> Future[bytes]:
    return batcher.submit(key(work), work)


def results(futures: Sequence[Future[bytes]]) -> list[bytes]:
    return [future.result(TIMEOUT_S) for future in futures]


def test_a_thousand_threads_that_ask_for_fifty_keys_cause_fifty_encodes(setting: Setting) -> None:
    batcher = setting.batcher(BatchConfig(max_batch=4, max_wait_s=0.001))
    together = threading.Barrier(1000)
    setting.device.gate.set()

    def one(index: int) -> bytes:
        together.wait(TIMEOUT_S)
        return ask(batcher, f"64x64:{index % 50}").result(TIMEOUT_S)

    with ThreadPoolExecutor(1000) as pool:
        found = list(pool.map(one, range(1000)))
    assert found == [f"64x64:{index % 50}".encode() for index in range(1000)]
    assert sorted(setting.device.encoded.values()) == [1] * 50


async def test_a_thousand_coroutines_that_ask_for_fifty_keys_cause_fifty_encodes(
    setting: Setting,
) -> None:
    batcher = setting.batcher(BatchConfig(max_batch=4, max_wait_s=0.001))
    setting.device.gate.set()

    async def one(index: int) -> bytes:
        return await asyncio.wrap_future(ask(batcher, f"64x64:{index % 50}"))

    found = await asyncio.gather(*[one(index) for index in range(1000)])
    assert found == [f"64x64:{index % 50}".encode() for index in range(1000)]
    assert sorted(setting.device.encoded.values()) == [1] * 50


def test_what_gathers_is_encoded_by_shape_up_to_the_largest_batch(setting: Setting) -> None:
    batcher = setting.busy(BatchConfig(max_batch=3, max_wait_s=0.0))
    works = [f"{shape}:{index}" for index in range(4) for shape in ("wide", "tall")]
    futures = [ask(batcher, work) for work in works]
    setting.device.gate.set()
    assert results(futures) == [work.encode() for work in works]
    assert setting.device.batches[1:] == [
        ("wide:0", "wide:1", "wide:2"),
        ("tall:0", "tall:1", "tall:2"),
        ("wide:3",),
        ("tall:3",),
    ]
    assert setting.ear.sizes == [1, 3, 3, 1, 1]


def test_a_full_batch_does_not_wait(setting: Setting) -> None:
    batcher = setting.batcher(BatchConfig(max_batch=2, max_wait_s=3600.0))
    setting.device.gate.set()
    results([ask(batcher, "a:0"), ask(batcher, "a:1")])
    assert setting.device.batches == [("a:0", "a:1")]


def test_a_lone_work_waits_no_longer_than_it_should(setting: Setting) -> None:
    batcher = setting.batcher(BatchConfig(max_batch=2, max_wait_s=0.01))
    setting.device.gate.set()
    assert results([ask(batcher, "a:0")]) == [b"a:0"]


def test_full_batches_do_not_starve_a_rare_shape(setting: Setting) -> None:
    batcher = setting.busy(BatchConfig(max_batch=2, max_wait_s=0.0))
    futures = [ask(batcher, work) for work in ("rare:0", "a:0", "a:1", "a:2", "a:3")]
    setting.device.gate.set()
    results(futures)
    assert setting.device.batches[1] == ("rare:0",)


def test_what_was_made_meanwhile_is_not_made_again(setting: Setting) -> None:
    batcher = setting.busy()
    future = ask(batcher, "a:0")
    setting.shelf.put(key("a:0"), b"from elsewhere")
    setting.device.gate.set()
    assert results([future]) == [b"from elsewhere"]
    assert setting.device.encoded["a:0"] == 0


def test_an_entry_is_kept_before_its_askers_hear_of_it(setting: Setting) -> None:
    setting.device.gate.set()
    results([ask(setting.batcher(), "a:0")])
    assert setting.shelf.held[key("a:0")] == b"a:0"


def test_a_key_being_encoded_can_be_joined(setting: Setting) -> None:
    batcher = setting.busy()
    joined = batcher.join(key("busy"))
    assert joined is not None
    assert batcher.join(key("a:0")) is None
    assert batcher.num_in_flight == 1
    setting.device.gate.set()
    assert results([joined]) == [b"busy:busy"]


def test_a_bad_work_fails_all_its_askers_and_no_neighbour(setting: Setting) -> None:
    batcher = setting.busy()
    good = [ask(batcher, f"a:{index}") for index in range(4)]
    bad = [ask(batcher, "a:bad") for _ in range(3)]
    setting.device.gate.set()
    assert results(good) == [f"a:{index}".encode() for index in range(4)]
    for future in bad:
        with pytest.raises(ImageInvalid, match="is bad"):
            future.result(TIMEOUT_S)


def test_a_failed_key_may_be_asked_for_again(setting: Setting) -> None:
    batcher = setting.batcher()
    setting.device.gate.set()
    for _ in range(2):
        with pytest.raises(ImageInvalid):
            ask(batcher, "a:bad").result(TIMEOUT_S)
    assert setting.device.encoded["a:bad"] == 2


def test_a_batch_that_does_not_fit_is_split_and_its_shape_kept_smaller(setting: Setting) -> None:
    setting.device.capacity = 2
    batcher = setting.busy(BatchConfig(max_batch=4, max_wait_s=0.0))
    futures = [ask(batcher, f"a:{index}") for index in range(8)]
    setting.device.gate.set()
    assert results(futures) == [f"a:{index}".encode() for index in range(8)]
    assert [len(batch) for batch in setting.device.batches[1:]] == [4, 2, 2, 2, 2]


def test_a_work_that_does_not_fit_alone_fails_alone(setting: Setting) -> None:
    setting.device.capacity = 0
    batcher = setting.batcher()
    setting.device.gate.set()
    with pytest.raises(OutOfDeviceMemory):
        ask(batcher, "a:0").result(TIMEOUT_S)


def test_a_work_that_everybody_gave_up_is_not_encoded(setting: Setting) -> None:
    batcher = setting.busy()
    given_up = [ask(batcher, "a:0") for _ in range(2)]
    other = ask(batcher, "a:1")
    assert all(future.cancel() for future in given_up)
    setting.device.gate.set()
    results([other])
    assert setting.device.encoded["a:0"] == 0


def test_one_asker_that_gives_up_does_not_take_the_work_from_another(setting: Setting) -> None:
    batcher = setting.busy()
    given_up, other = ask(batcher, "a:0"), ask(batcher, "a:0")
    given_up.cancel()
    setting.device.gate.set()
    assert results([other]) == [b"a:0"]
    with pytest.raises(CancelledError):
        given_up.result(TIMEOUT_S)


async def test_a_coroutine_that_is_cancelled_gives_up(setting: Setting) -> None:
    batcher = setting.busy()
    task = asyncio.ensure_future(asyncio.wrap_future(ask(batcher, "a:0")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert batcher.join(key("a:0")) is None


def test_more_than_may_wait_is_refused_but_joining_is_not(setting: Setting) -> None:
    batcher = setting.busy(BatchConfig(max_waiting=2))
    futures = [ask(batcher, "a:0"), ask(batcher, "a:1"), ask(batcher, "a:1")]
    with pytest.raises(QueueFull, match="2 requests wait and the limit is 2"):
        ask(batcher, "a:2")
    setting.device.gate.set()
    assert results(futures) == [b"a:0", b"a:1", b"a:1"]


def test_closing_ends_what_is_encoded_and_hands_back_what_waits(setting: Setting) -> None:
    batcher = setting.busy()
    running, waiting = batcher.join(key("busy")), ask(batcher, "a:0")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(Draining):
        waiting.result(TIMEOUT_S)
    setting.device.gate.set()
    closing.join(TIMEOUT_S)
    assert running is not None
    assert results([running]) == [b"busy:busy"]
    with pytest.raises(Draining):
        ask(batcher, "a:1")


def test_an_entry_that_cannot_be_kept_fails_its_askers_only(setting: Setting) -> None:
    batcher = setting.batcher()
    setting.device.gate.set()
    setting.shelf.is_full = True
    with pytest.raises(OSError, match="no room"):
        ask(batcher, "a:0").result(TIMEOUT_S)
    setting.shelf.is_full = False
    assert results([ask(batcher, "a:1")]) == [b"a:1"]


def test_a_fault_of_the_batcher_fails_a_batch_and_not_the_thread(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = setting.batcher()
    setting.device.gate.set()

    def broken(**_: object) -> None:
        raise RuntimeError("no ear")

    with monkeypatch.context() as patch:
        patch.setattr(setting.ear, "on_batch", broken)
        with pytest.raises(RuntimeError, match="no ear"):
            ask(batcher, "a:0").result(TIMEOUT_S)
    assert results([ask(batcher, "a:1")]) == [b"a:1"]


def test_the_clock_decides_when_a_work_has_waited_long_enough() -> None:
    now: Callable[[], float] = iter([0.0, 5.0, 5.0, 5.0, 5.0]).__next__
    device = Device()
    device.gate.set()
    batcher = Batcher(
        device.encode,
        shape_of=lambda work: work.split(":")[0],
        entries=Shelf(),
        observer=Ear(),
        config=BatchConfig(max_wait_s=4.0),
        clock=now,
    )
    assert results([ask(batcher, "a:0")]) == [b"a:0"]
    batcher.close()
