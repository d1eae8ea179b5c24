"""Embeddings of prompts are found in memory, then at a service that may be slow or away."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from diptych.digest import Digest
from diptych.embeddings.memory import MemoryTier
from diptych.errors import EmbeddingMissing, ServerUnreachable
from diptych.inference.prompt_cache import (
    MAX_WRITES,
    PAUSE_S,
    LocalPrompts,
    PromptTiers,
    ServicePrompts,
    SharedPrompts,
)

KEYS = [Digest.of_bytes(bytes([index])) for index in range(4)]
TIMEOUT_S = 30.0


@dataclass
class Client:
    """An embedding-cache service's client, which fails when it is told to."""

    held: dict[Digest, bytes] = field(default_factory=dict)
    is_away: bool = False
    num_calls: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """Writes wait for it."""
    timeouts: list[float | None] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    answered: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None

    def read(
        self, keys: Sequence[Digest], *, timeout_s: float | None = None
    ) -> Iterator[tuple[Digest, bytes]]:
        self._call(timeout_s)
        missing = [key for key in keys if key not in self.held]
        yield from ((key, self.held[key]) for key in keys if key in self.held)
        if missing:
            raise EmbeddingMissing(str(missing[0]), len(missing))

    def write(
        self, entries: Iterable[tuple[Digest, bytes]], *, timeout_s: float | None = None
    ) -> None:
        assert self.gate.wait(TIMEOUT_S)
        self._call(timeout_s)
        self.held.update(entries)

    def _call(self, timeout_s: float | None) -> None:
        self.num_calls += 1
        self.timeouts.append(timeout_s)
        self.threads.append(threading.current_thread())
        if self.fault is not None:
            raise self.fault
        if self.is_away:
            raise ServerUnreachable(address="127.0.0.1:1", detail="refused")
        self.answered.set()


@dataclass
class Ear:
    """Counts looks."""

    looks: list[tuple[str, bool]] = field(default_factory=list)

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        assert kind == "prompt"
        self.looks.append((tier, is_hit))


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    made.gate.set()
    yield made
    made.gate.set()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def shared(client: Client, now: list[float]) -> Iterator[SharedPrompts]:
    made = SharedPrompts(ServicePrompts(client, timeout_s=0.5), clock=lambda: now[0])
    yield made
    client.gate.set()
    made.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def local(**held: bytes) -> LocalPrompts:
    made = LocalPrompts(MemoryTier(1000))
    made.put_many({KEYS[int(index[1:])]: data for index, data in held.items()})
    return made


def test_memory_gives_back_what_it_was_given() -> None:
    assert local(k0=b"a", k2=b"c").get_many(KEYS) == {KEYS[0]: b"a", KEYS[2]: b"c"}


def test_a_service_that_lacks_some_gives_the_others_in_time(client: Client) -> None:
    client.held[KEYS[1]] = b"b"
    assert ServicePrompts(client, timeout_s=0.5).get_many(KEYS) == {KEYS[1]: b"b"}
    assert client.timeouts == [0.5]


def test_what_is_put_reaches_the_service(client: Client, shared: SharedPrompts) -> None:
    shared.put_many({KEYS[0]: b"a"})
    shared.close()
    assert client.held == {KEYS[0]: b"a"}


def test_putting_does_not_wait_for_the_service(client: Client, shared: SharedPrompts) -> None:
    client.gate.clear()
    for _ in range(2 * MAX_WRITES):
        shared.put_many({KEYS[0]: b"a"})
    client.gate.set()
    shared.close()
    assert client.num_calls == MAX_WRITES


def test_a_service_that_is_away_is_a_miss_and_then_left_alone(
    client: Client, shared: SharedPrompts, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    client.held[KEYS[0]] = b"a"
    client.is_away = True
    assert shared.get_many(KEYS) == {}
    client.is_away = False
    now[0] += PAUSE_S - 0.1
    assert shared.get_many(KEYS) == {}
    shared.put_many({KEYS[1]: b"b"})
    now[0] += 0.2
    assert shared.get_many(KEYS) == {}
    assert client.answered.wait(TIMEOUT_S)
    wait_for(lambda: shared.get_many(KEYS) == {KEYS[0]: b"a"})
    assert client.num_calls >= 3
    assert "left alone for 5 s" in caplog.text


def test_a_service_that_stays_away_is_asked_again_in_a_thread_only(
    client: Client, shared: SharedPrompts, now: list[float]
) -> None:
    client.is_away = True
    for _ in range(3):
        assert shared.get_many(KEYS) == {}
        now[0] += PAUSE_S + 0.1
    shared.close()
    assert client.threads[0] is threading.current_thread()
    assert threading.current_thread() not in client.threads[1:]


def test_what_no_cache_may_raise_is_a_miss_too(
    client: Client, shared: SharedPrompts, caplog: pytest.LogCaptureFixture
) -> None:
    client.fault = ValueError("garbage")
    assert shared.get_many(KEYS) == {}
    assert "in a way that it should not" in caplog.text


def test_a_write_that_fails_pauses_too(client: Client, now: list[float]) -> None:
    made = SharedPrompts(ServicePrompts(client, timeout_s=0.5), clock=lambda: now[0])
    client.is_away = True
    made.put_many({KEYS[0]: b"a"})
    made.close()
    client.is_away = False
    assert made.get_many(KEYS) == {}
    assert client.num_calls == 1


def test_tiers_are_asked_in_order_for_what_is_left() -> None:
    ear, memory, service = Ear(), local(k0=b"a"), local(k0=b"a", k1=b"b")
    tiers = PromptTiers({"memory": memory, "service": service}, ear)
    assert tiers.get_many(KEYS[:3]) == {KEYS[0]: b"a", KEYS[1]: b"b"}
    assert ear.looks == [
        ("memory", True),
        ("memory", False),
        ("memory", False),
        ("service", True),
        ("service", False),
    ]


def test_what_a_later_tier_has_an_earlier_one_takes_over() -> None:
    ear, memory = Ear(), local()
    tiers = PromptTiers({"memory": memory, "service": local(k1=b"b")}, ear)
    tiers.get_many([KEYS[1]])
    ear.looks.clear()
    assert tiers.get_many([KEYS[1]]) == {KEYS[1]: b"b"}
    assert ear.looks == [("memory", True)]


def test_every_tier_keeps_what_is_put() -> None:
    caches: Mapping[str, LocalPrompts] = {"memory": local(), "service": local()}
    PromptTiers(caches, Ear()).put_many({KEYS[3]: b"d"})
    assert [cache.get_many(KEYS) for cache in caches.values()] == [{KEYS[3]: b"d"}] * 2


def test_one_tenants_prompts_are_not_found_for_another() -> None:
    tiers = PromptTiers({"memory": LocalPrompts(MemoryTier(100))}, Ear())
    tiers.of("one").put_many({KEYS[0]: b"a"})
    assert tiers.of("other").get_many(KEYS) == {}
    assert tiers.of("one").get_many(KEYS) == {KEYS[0]: b"a"}


def test_tenants_share_a_service() -> None:
    client = Client()
    client.gate.set()
    service = ServicePrompts(client, timeout_s=1.0)
    tiers = PromptTiers({"service": service}, Ear())
    tiers.of("one").put_many({KEYS[0]: b"a"})
    assert tiers.of("other").get_many(KEYS) == {KEYS[0]: b"a"}
