"""The loader brings an adapter from the store to host memory once, and says how it went."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from diptych.adapters.adapter import Adapter, Component, LowRank, Target
from diptych.adapters.bundle import to_bytes
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.adapters.summary import summarise
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, DiptychError, EngineFault
from diptych.inference.adapter_loading import StoreLoader
from diptych.inference.adapter_units import unit_of
from diptych.inference.ports import Prepared
from diptych.inference.trajectory import AdapterUse
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.tiers import TierStats, open_files
from support.buckets import s3_bucket, s3_server
from support.fake_device import FakeObserver
from support.shelves import in_bucket

Result = Prepared | DiptychError


def adapter(seed: int) -> Adapter:
    target = Target(component=Component.UNET, module="conv_in")
    update = LowRank(down=torch.full((2, 3), float(seed)), up=torch.ones(4, 2), alpha=1.0)
    return Adapter(targets={target: update})


@dataclass
class Rig:
    """A loader on a real store; what is bound is noted."""

    registry: Registry
    host_bytes: int = 100
    bound: list[str] = field(default_factory=list)
    observer: FakeObserver = field(default_factory=FakeObserver)
    slow: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.loader = StoreLoader(
            self.registry, self._bind, host_bytes=self.host_bytes, observer=self.observer
        )

    def publish(self, name: str, seed: int) -> AdapterUse:
        own = adapter(seed)
        data = to_bytes(own)
        card = summarise(
            own,
            digest=Digest.of_bytes(data),
            size_bytes=len(data),
            source=name,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        return AdapterUse(digest=str(self.registry.publish(name, data, card)), name=name)

    def load(self, *uses: AdapterUse, holding: int = 0) -> Result:
        """Return what is loaded, of which the caller then holds so many bytes."""
        answers: queue.Queue[Result] = queue.Queue()
        (unit,) = {unit_of(use) for use in uses[:1]}
        self.loader.prepare(unit, uses, fetching=lambda: None, done=answers.put)
        result = answers.get(timeout=10)
        self.loader.holds(unit, holding)
        return result

    def _bind(self, uses: tuple[AdapterUse, ...], adapters: object) -> Prepared:
        self.bound.append(uses[0].name)
        if uses[0].name.startswith("slow"):
            self.slow.wait(10)
        if uses[0].name == "unbindable":
            raise RuntimeError("no such layer")
        return Prepared(num_lines=2, size_bytes=60, value=adapters)


def in_folder(folder: Path) -> Registry:
    blobs = LocalBlobs(folder / "blobs")
    stores = AdapterStores(blobs=blobs, refs=LocalRefs(folder / "names"))
    return Registry(stores, open_files(blobs, cache_dir=folder / "cache", limit_bytes=10**6))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(in_folder(tmp_path))
    yield made
    made.slow.set()
    made.loader.stop()


def held(rig: Rig) -> tuple[int, int]:
    stats = rig.loader.stats()
    return stats.num_held, stats.size_bytes


def test_reads_what_was_published(rig: Rig) -> None:
    found = rig.load(rig.publish("a", seed=3))
    assert isinstance(found, Prepared)
    assert isinstance(found.value, list)
    (read,) = found.value
    assert read.targets[Target(component=Component.UNET, module="conv_in")].down[0, 0] == 3.0


def test_keeps_what_it_bound_in_host_memory(rig: Rig) -> None:
    use = rig.publish("a", seed=1)
    rig.load(use)
    rig.load(use)
    assert rig.bound == ["a"]
    assert rig.observer.loads == [("disk", None), ("host", None)]
    assert rig.loader.stats().size_bytes == 60


def test_counts_what_the_host_tier_does(rig: Rig) -> None:
    one, two = rig.publish("a", seed=1), rig.publish("b", seed=2)
    for use in (one, one, two):
        rig.load(use)
    assert rig.loader.stats() == TierStats(
        num_hits=1, num_misses=2, num_evictions=1, num_held=1, size_bytes=60
    )
    assert rig.loader.in_host() == {two.digest}
    assert [rig.loader.has(unit_of(use)) for use in (one, two)] == [False, True]


def test_falls_through_the_tiers_one_after_the_other(tmp_path: Path) -> None:
    with s3_server() as url:
        registry = in_bucket(s3_bucket(url).store, "adapters", tmp_path)
        rig = Rig(registry)
        one, two = rig.publish("a", seed=1), rig.publish("b", seed=2)
        for use in (one, one, two, one):
            assert isinstance(rig.load(use), Prepared)
        rig.loader.stop()
    assert [tier for tier, _ in rig.observer.loads] == ["store", "host", "store", "disk"]


def test_what_it_kept_waits_for_no_other_load(rig: Rig) -> None:
    use = rig.publish("a", seed=1)
    rig.load(use)
    for number in range(8):
        slow = rig.publish(f"slow-{number}", seed=2 + number)
        rig.loader.prepare(unit_of(slow), (slow,), fetching=lambda: None, done=lambda _result: None)
    assert isinstance(rig.load(use), Prepared)
    assert not rig.slow.is_set()


def test_drops_the_least_recently_used_beyond_its_bytes(rig: Rig) -> None:
    one, two = rig.publish("a", seed=1), rig.publish("b", seed=2)
    for use in (one, two, one):
        rig.load(use)
    assert rig.bound == ["a", "b", "a"]
    assert rig.loader.stats().num_held == 1


def test_what_waits_for_the_device_is_counted_once(rig: Rig) -> None:
    rig.load(rig.publish("a", seed=1), holding=60)
    assert held(rig) == (1, 60)
    assert not rig.loader.is_full()


def test_what_waits_takes_the_bytes_of_what_is_only_kept(rig: Rig) -> None:
    one, two, three = (rig.publish(name, seed=n) for n, name in enumerate("abc"))
    rig.load(one)
    rig.load(two, holding=60)
    rig.load(three, holding=60)
    assert held(rig) == (2, 120)
    assert rig.loader.is_full()
    rig.loader.holds(unit_of(two), 0)
    assert not rig.loader.is_full()
    assert held(rig) == (1, 60)


def test_tokens_on_the_device_are_counted(rig: Rig) -> None:
    use = rig.publish("a", seed=1)
    rig.load(use, holding=40)
    rig.load(rig.publish("b", seed=2))
    assert held(rig) == (2, 100)


def test_what_only_the_engine_has_waits_for_a_fetch_again(rig: Rig) -> None:
    use, other = rig.publish("a", seed=1), rig.publish("b", seed=2)
    rig.load(use, holding=40)
    rig.load(other, holding=60)
    assert rig.loader.in_host() == {other.digest}
    assert held(rig) == (2, 100)
    assert rig.loader.stats().num_evictions == 1


def test_what_host_memory_has_no_room_for_is_read_again(tmp_path: Path) -> None:
    rig = Rig(in_folder(tmp_path), host_bytes=0)
    use = rig.publish("a", seed=1)
    for _ in range(2):
        rig.load(use)
    rig.loader.stop()
    assert rig.bound == ["a", "a"]
    assert rig.loader.stats() == TierStats(num_misses=2, num_evictions=2)


def test_a_kept_file_is_not_fetched_again(rig: Rig) -> None:
    use = rig.publish("a", seed=1)
    rig.loader.keep(use)
    rig.loader.let_go(use)
    assert isinstance(rig.load(use), Prepared)


def test_an_adapter_that_is_gone_is_not_found(rig: Rig) -> None:
    result = rig.load(AdapterUse(digest=str(Digest.of_bytes(b"x")), name="gone"))
    assert isinstance(result, AdapterNotFound)
    assert rig.observer.loads == [("store", "ADAPTER_NOT_FOUND")]


def test_a_fault_while_binding_is_an_answer(rig: Rig) -> None:
    assert isinstance(rig.load(rig.publish("unbindable", seed=1)), EngineFault)
    assert isinstance(rig.load(rig.publish("a", seed=2)), Prepared)


def test_another_tenants_adapter_is_not_found(rig: Rig) -> None:
    use = rig.publish("a", seed=1)
    theirs = AdapterUse(digest=use.digest, name="a", tenant="other")
    assert isinstance(rig.load(theirs), AdapterNotFound)
