"""Each tenant has a store of its own; what they hold is counted together."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.embedding_cache.stores import RootCount, TenantStores
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.roots import RootInfo, Roots
from diptych.embeddings.tiers import StoreConfig
from diptych.errors import SourceUnavailable
from diptych.storage.memory import MemoryBlobs

KEY, OTHER = Digest.of_bytes(b"key"), Digest.of_bytes(b"other")


class Looks:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def __call__(self, *, tier: str, kind: str, is_hit: bool) -> None:
        self.seen.append((tier, kind, is_hit))


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def stores(tmp_path: Path, looks: Looks) -> Iterator[TenantStores]:
    stores = TenantStores(StoreConfig(folder=tmp_path, memory_bytes=100), looks)
    yield stores
    stores.close()


def test_tenants_do_not_see_each_others_embeddings(stores: TenantStores) -> None:
    stores.of("one").write(KEY, b"value")
    assert stores.of("other").locate([KEY]) == {}


def test_tenant_has_one_store(stores: TenantStores) -> None:
    assert stores.of("one") is stores.of("one")


def test_written_embedding_is_new_once(stores: TenantStores) -> None:
    store = stores.of("one")
    assert [store.write(KEY, b"value"), store.write(KEY, b"value")] == [True, False]


def test_read_tells_the_tier_and_is_counted(stores: TenantStores, looks: Looks) -> None:
    store = stores.of("one")
    store.write(KEY, b"x" * 101)
    store.flush()
    found = store.read(KEY, kind="image")
    assert found is not None
    assert (found.source, found.size_bytes) == ("disk", 101)
    assert looks.seen == [("disk", "image", True)]


def test_miss_is_one_in_every_tier(stores: TenantStores, looks: Looks) -> None:
    store = stores.of("one")
    assert store.read(KEY, kind="image") is None
    assert looks.seen == [("all", "image", False)]
    assert [tier.num_misses for tier in store.counts().tiers] == [1, 1]


def test_hit_in_a_colder_tier_was_missed_in_the_warmer_one(stores: TenantStores) -> None:
    store = stores.of("one")
    store.count("disk", kind="image")
    assert [(t.num_hits, t.num_misses) for t in store.counts().tiers] == [(0, 1), (1, 0)]


def test_evicted_embedding_is_gone_from_every_tier(stores: TenantStores) -> None:
    store = stores.of("one")
    store.write(KEY, b"value")
    store.flush()
    evicted = store.evict([KEY, OTHER], is_dry_run=False)
    assert (evicted.num_evicted, evicted.evicted_bytes) == (1, 5)
    assert store.locate([KEY]) == {}


def test_dry_run_evicts_nothing(stores: TenantStores) -> None:
    store = stores.of("one")
    store.write(KEY, b"value")
    assert store.evict([KEY], is_dry_run=True).num_evicted == 1
    assert store.locate([KEY]) == {KEY: "memory"}


def test_embeddings_outlive_the_process(tmp_path: Path, looks: Looks) -> None:
    config = StoreConfig(folder=tmp_path)
    first = TenantStores(config, looks)
    first.of("one").write(KEY, b"value")
    first.close()
    second = TenantStores(config, looks)
    assert second.of("one").locate([KEY]) == {KEY: "disk"}
    second.close()


def test_scrape_reads_all_tenants_together(stores: TenantStores) -> None:
    stores.of("one").write(KEY, b"value")
    stores.of("other").write(KEY, b"value")
    tiers, num_damaged, num_roots = stores.readings()
    assert (tiers["memory"].num_entries, num_damaged, num_roots) == (2, 0, 0)


def test_evicting_counts_no_look(stores: TenantStores, looks: Looks) -> None:
    store = stores.of("one")
    store.write(KEY, b"x" * 101)
    store.flush()
    assert store.evict([KEY], is_dry_run=False).evicted_bytes == 101
    assert looks.seen == []


def test_pack_that_was_cut_is_counted_by_its_entries(tmp_path: Path, looks: Looks) -> None:
    first = TenantStores(StoreConfig(folder=tmp_path), looks)
    for key in (KEY, OTHER):
        first.of("one").write(key, b"value")
    first.close()
    (pack,) = (tmp_path / "one" / "packs").iterdir()
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[:-9])
    second = TenantStores(StoreConfig(folder=tmp_path), looks)
    assert second.of("one").read(KEY, kind="image") is None
    assert second.readings()[1] == 2
    second.close()


class SlowRoots:
    """Tells when its gate opens, or fails."""

    def __init__(self, packs: PackStore) -> None:
        self._roots = Roots(packs.packs)
        self.gate = threading.Event()
        self.gate.set()
        self.is_broken = False

    def roots(self) -> list[RootInfo]:
        self.gate.wait(30)
        if self.is_broken:
            raise SourceUnavailable("s3://bucket", "is away")
        return self._roots.roots()


@pytest.fixture
def packs() -> Iterator[PackStore]:
    packs = PackStore(MemoryBlobs())
    Roots(packs.packs).write_root("one", [KEY])
    yield packs
    packs.close()


def test_roots_that_cannot_be_listed_are_as_many_as_before(packs: PackStore) -> None:
    roots = SlowRoots(packs)
    count = RootCount(roots, packs.pool)
    assert count.read() == 1
    roots.is_broken = True
    Roots(packs.packs).write_root("two", [KEY])
    assert count.read() == 1
    roots.is_broken = False
    assert count.read() == 2


def test_nobody_waits_long_for_roots(packs: PackStore) -> None:
    roots = SlowRoots(packs)
    count = RootCount(roots, packs.pool, wait_s=0.01)
    roots.gate.clear()
    assert [count.read(), count.read()] == [0, 0]
    roots.gate.set()
    assert RootCount(roots, packs.pool).read() == 1
