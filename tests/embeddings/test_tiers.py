"""Tiers: what one lacks the next has, and what one cannot do the others do."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.embeddings.memory import MemoryTier
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.tiers import StoreConfig, TieredStore, open_packs, open_store
from diptych.errors import SettingInvalid, SourceUnavailable, StoreFull
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs
from diptych.storage.s3_blobs import S3Blobs
from support.buckets import BUCKET, REGION, Bucket
from support.faulty_proxy import Fault, FaultyProxy
from support.full_disk import files_no_larger_than
from support.packed import SMALL, data_of, key_of, pack_files, small_store

KEYS = [key_of(number) for number in range(30)]


class Counts:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: Counter[tuple[str, ...]] = Counter()
        self.evicted_bytes = 0

    def hit(self, tier: str, kind: str) -> None:
        self.told["hit", tier, kind] += 1

    def miss(self, kind: str) -> None:
        self.told["miss", kind] += 1

    def failed(self, tier: str, operation: str) -> None:
        self.told["failed", tier, operation] += 1

    def evicted(self, tier: str, num_entries: int, size_bytes: int) -> None:
        self.told["evicted", tier] += num_entries
        self.evicted_bytes += size_bytes


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def disk(tmp_path: Path) -> PackStore:
    return small_store(LocalBlobs(tmp_path))


@pytest.fixture
def remote() -> PackStore:
    return small_store(MemoryBlobs())


def tiered(
    counts: Counts,
    disk: PackStore | None = None,
    remote: PackStore | None = None,
    *,
    memory_bytes: int = 2**20,
    disk_bytes: int | None = None,
) -> TieredStore:
    memory = MemoryTier(memory_bytes)
    return TieredStore(
        memory=memory, disk=disk, remote=remote, disk_bytes=disk_bytes, observer=counts
    )


def fill(store: TieredStore, numbers: range = range(30)) -> None:
    for number in numbers:
        store.put(key_of(number), data_of(number))
    store.flush()


def entries(numbers: range = range(30)) -> dict[Digest, bytes]:
    return {key_of(number): data_of(number) for number in numbers}


def test_an_entry_is_kept_in_every_tier(counts: Counts, disk: PackStore, remote: PackStore) -> None:
    fill(tiered(counts, disk, remote))
    assert dict(disk.read_many(KEYS)) == dict(remote.read_many(KEYS)) == entries()


def test_what_is_found_below_is_kept_above(
    counts: Counts, disk: PackStore, remote: PackStore
) -> None:
    fill(tiered(Counts(), remote=remote))
    for _ in range(2):
        store = tiered(counts, disk, remote)
        for _ in range(2):
            assert store.get(key_of(1), kind="prompt") == data_of(1)
        store.flush()
    assert counts.told == {
        ("hit", "remote", "prompt"): 1,
        ("hit", "memory", "prompt"): 2,
        ("hit", "disk", "prompt"): 1,
    }


def test_many_are_found_wherever_they_are(
    counts: Counts, disk: PackStore, remote: PackStore
) -> None:
    fill(tiered(Counts(), remote=remote))
    fill(tiered(Counts(), disk), range(10))
    store = tiered(counts, disk, remote)
    store.get(key_of(3), kind="image")
    assert dict(store.read_many([*KEYS, key_of(99), key_of(1)], kind="image")) == entries()
    assert counts.told["miss", "image"] == 1
    assert counts.told["hit", "disk", "image"] == 10
    assert counts.told["hit", "remote", "image"] == 20
    assert dict(store.read_many(KEYS, kind="image")) == entries()
    assert counts.told["hit", "memory", "image"] == 31
    store.flush()
    assert dict(disk.read_many(KEYS)) == entries()


def test_what_is_nowhere_is_missing(counts: Counts, disk: PackStore, remote: PackStore) -> None:
    store = tiered(counts, disk, remote)
    fill(store, range(5))
    assert store.missing([key_of(9), key_of(1), key_of(8)]) == [key_of(9), key_of(8)]
    assert store.get(key_of(9), kind="prompt") is None
    assert counts.told == {("miss", "prompt"): 1}


def test_memory_alone_is_a_store(counts: Counts) -> None:
    store = tiered(counts)
    fill(store)
    assert dict(store.read_many(KEYS, kind="prompt")) == entries()
    assert store.lasting is None
    store.close()


def test_the_tier_that_lasts_is_the_last(
    counts: Counts, disk: PackStore, remote: PackStore
) -> None:
    assert tiered(counts, disk, remote).lasting is remote
    assert tiered(counts, disk).lasting is disk


def test_a_disk_in_front_of_a_remote_is_bounded(
    counts: Counts, disk: PackStore, remote: PackStore, tmp_path: Path
) -> None:
    store = tiered(counts, disk, remote, memory_bytes=0, disk_bytes=10_000)
    fill(store, range(200))
    assert sum(path.stat().st_size for path in pack_files(tmp_path)) <= 10_000
    assert counts.told["evicted", "disk"] > 100
    assert counts.evicted_bytes > 50_000
    assert dict(store.read_many(entries(range(200)), kind="image")) == entries(range(200))
    store.flush()
    assert sum(path.stat().st_size for path in pack_files(tmp_path)) <= 10_000


def test_a_disk_that_lasts_is_not_bounded(counts: Counts, disk: PackStore) -> None:
    store = tiered(counts, disk, disk_bytes=1000)
    fill(store)
    assert dict(disk.read_many(KEYS)) == entries()


def test_deleted_entries_are_gone_from_every_tier(
    counts: Counts, disk: PackStore, remote: PackStore
) -> None:
    store = tiered(counts, disk, remote)
    fill(store)
    assert store.delete([key_of(1), key_of(99)]) == 1
    assert store.missing([key_of(1), key_of(2)]) == [key_of(1)]


def test_a_full_disk_is_counted_and_told_and_the_rest_serves(
    counts: Counts, remote: PackStore, tmp_path: Path
) -> None:
    disk = PackStore(LocalBlobs(tmp_path), namespace="emb")
    store = tiered(counts, disk, remote, memory_bytes=0)
    with files_no_larger_than(2**13):
        fill(store)
    assert counts.told == {("failed", "disk", "write"): 1}
    assert store.get(key_of(1), kind="prompt") == data_of(1)


def test_a_full_tier_that_lasts_is_told_when_all_should_be_kept(
    counts: Counts, tmp_path: Path
) -> None:
    store = tiered(counts, PackStore(LocalBlobs(tmp_path), namespace="emb"))
    with files_no_larger_than(2**13), pytest.raises(StoreFull):
        fill(store)
    assert store.get(key_of(1), kind="prompt") == data_of(1)
    store.flush()


def test_a_bucket_that_fails_is_passed_over_rested_and_counted(
    counts: Counts, far: S3Blobs, proxy: FaultyProxy
) -> None:
    fill(tiered(Counts(), remote=small_store(far)))
    store = tiered(counts, remote=small_store(far))
    proxy.cause(Fault(method="GET", kind="500", num_times=99))
    assert store.get(key_of(1), kind="image") is None
    num_requests = len(proxy.requests)
    assert list(store.read_many(KEYS, kind="image")) == []
    assert len(proxy.requests) == num_requests
    assert counts.told == {("failed", "remote", "read"): 1, ("miss", "image"): 31}
    with pytest.raises(SourceUnavailable):
        store.missing(KEYS)


def test_a_store_is_opened_as_its_settings_say(
    server: str, bucket: Bucket, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    config = StoreConfig(
        folder=tmp_path / "new",
        s3_uri=f"s3://{BUCKET}/{prefix}",
        s3_endpoint=server,
        s3_region=REGION,
        packs=SMALL,
    )
    with_both = open_store(config)
    fill(with_both)
    stats = with_both.stats()
    with_both.close()
    assert stats.disk is not None
    assert stats.remote is not None
    assert stats.disk.num_entries == stats.remote.num_entries == 30
    packs = open_packs(config)
    assert packs is not None
    assert dict(packs.read_many(KEYS)) == entries()
    assert open_packs(StoreConfig()) is None


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "http://x/y", "bucket/x"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(SettingInvalid, match="s3_uri"):
        open_store(StoreConfig(s3_uri=uri))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingInvalid, match="folder"):
        open_store(StoreConfig(folder=tmp_path / "file"))


def test_a_bucket_that_fails_has_none_of_what_is_located(
    counts: Counts, disk: PackStore, far: S3Blobs, proxy: FaultyProxy
) -> None:
    store = tiered(counts, disk, small_store(far))
    disk.put(key_of(1), data_of(1))
    proxy.cause(Fault(method="GET", kind="500", num_times=99))
    assert store.locate([key_of(1), key_of(2)]) == {key_of(1): "disk"}
    num_requests = len(proxy.requests)
    assert store.locate([key_of(2)]) == {}
    assert len(proxy.requests) == num_requests
    assert counts.told == {("failed", "remote", "read"): 1}


def test_sizes_are_told_without_reading(counts: Counts, disk: PackStore, remote: PackStore) -> None:
    store = tiered(counts, disk, remote, memory_bytes=0)
    fill(store)
    disk.put(key_of(50), data_of(50))
    found = store.sizes([key_of(1), key_of(50), key_of(99)])
    assert found == {key_of(1): len(data_of(1)), key_of(50): len(data_of(50))}
    assert counts.told == {}


def test_everyone_who_writes_to_a_full_disk_at_once_is_told(counts: Counts, tmp_path: Path) -> None:
    store = tiered(counts, PackStore(LocalBlobs(tmp_path), namespace="emb"))
    start = threading.Barrier(8)

    def write(worker: int) -> str:
        since = store.num_failed_writes
        for number in range(worker * 30, worker * 30 + 30):
            store.put(key_of(number), data_of(number))
        start.wait()
        try:
            store.flush(since=since)
        except StoreFull:
            return "told"
        return "believes"

    with files_no_larger_than(2**13), ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(8))) == {"told"}


def test_what_is_deleted_while_it_is_read_does_not_come_back(
    counts: Counts, disk: PackStore
) -> None:
    fill(tiered(Counts(), disk))
    store = tiered(counts, disk)
    reading = store.read_many(KEYS, kind="image")
    next(reading)
    store.delete(KEYS)
    list(reading)
    assert store.missing(KEYS) == KEYS
