"""Upkeep beside writers and readers: what is needed stays, once; damage is put aside."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from diptych.digest import Digest
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.roots import Roots
from diptych.embeddings.upkeep import GcReport, gc, verify
from diptych.errors import BlobCorrupt, SourceUnavailable, StoreFull
from diptych.storage.local import LocalBlobs
from diptych.storage.s3_blobs import S3Blobs
from support.buckets import Bucket
from support.faulty_proxy import Fault, FaultyProxy
from support.full_disk import files_no_larger_than
from support.packed import age, data_of, key_of, pack_files, small_store, start

DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    return small_store(LocalBlobs(tmp_path))


def fill(store: PackStore, numbers: range, folder: Path, *, age_s: float = DAY_S) -> None:
    before = set(pack_files(folder))
    for number in numbers:
        store.put(key_of(number), data_of(number))
        if number % 10 == 9:
            store.flush()
    store.flush()
    for path in set(pack_files(folder)) - before:
        age(path, age_s)


def collect(store: PackStore, **arguments: Any) -> GcReport:
    defaults: dict[str, Any] = {"older_than_s": 3600.0, "is_dry_run": False, "grace_s": 60.0}
    return gc(store, **(defaults | arguments))


def held(folder: Path) -> dict[Digest, bytes]:
    store = small_store(LocalBlobs(folder))
    store.refresh()
    assert store.stats().num_entries == len(set(store.keys()))
    return dict(store.read_many(store.keys()))


def entries(*numbers: int) -> dict[Digest, bytes]:
    return {key_of(number): data_of(number) for number in numbers}


def test_what_no_root_needs_goes_and_the_rest_is_merged(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(60), tmp_path)
    Roots(store.packs).write_root("cats", [key_of(number) for number in range(0, 60, 3)])
    report = collect(store)
    assert held(tmp_path) == entries(*range(0, 60, 3))
    assert (report.num_collected, report.num_roots, report.is_complete) == (40, 1, True)
    assert len(pack_files(tmp_path)) < 5
    assert store.get(key_of(3)) == data_of(3)
    assert store.get(key_of(4)) is None


def test_a_dry_run_tells_the_same_and_changes_nothing(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(30), tmp_path)
    Roots(store.packs).write_root("cats", [key_of(1)])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    report = collect(store, is_dry_run=True)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
    assert report.num_collected == collect(store).num_collected == 29


def test_what_was_written_a_moment_ago_stays(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(10), tmp_path, age_s=30)
    report = collect(store, older_than_s=0)
    assert held(tmp_path) == entries(*range(10))
    assert report.num_packs_young == 1


def test_what_seems_to_come_from_the_future_stays(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(10), tmp_path, age_s=-DAY_S)
    report = collect(store, older_than_s=0, budget_bytes=0)
    assert held(tmp_path) == entries(*range(10))
    assert report.num_packs_from_future == 1
    assert report.over_budget_bytes > 0


def test_over_the_budget_the_oldest_go_first(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(10), tmp_path, age_s=900)
    fill(store, range(10, 20), tmp_path, age_s=600)
    budget = sum(len(data_of(number)) for number in range(10, 20))
    assert collect(store, budget_bytes=budget).over_budget_bytes == 0
    assert held(tmp_path) == entries(*range(10, 20))


def test_copies_go_and_a_second_run_finds_nothing_to_do(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(20), tmp_path)
    fill(small_store(LocalBlobs(tmp_path / "x")), range(20), tmp_path / "x")
    for path in pack_files(tmp_path / "x"):
        path.rename(tmp_path / "emb" / "packs" / path.name)
    Roots(store.packs).write_root("all", [key_of(number) for number in range(20)])
    assert collect(store).num_copies == 20
    assert held(tmp_path) == entries(*range(20))
    for path in pack_files(tmp_path):
        age(path, DAY_S)
    again = collect(store)
    assert (again.num_copies, again.num_packs_removed, again.num_packs_rewritten) == (0, 0, 0)


def test_two_collections_at_once_lose_nothing(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(200), tmp_path)
    fill(small_store(LocalBlobs(tmp_path / "x")), range(100, 300), tmp_path / "x")
    for path in pack_files(tmp_path / "x"):
        path.rename(tmp_path / "emb" / "packs" / path.name)
    Roots(store.packs).write_root("odd", [key_of(number) for number in range(1, 300, 2)])
    collectors = [small_store(LocalBlobs(tmp_path)) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(collect, collectors))
    for path in pack_files(tmp_path):
        age(path, DAY_S)
    collect(store)
    assert held(tmp_path) == entries(*range(1, 300, 2))


def test_a_collection_beside_writers_leaves_every_entry_once(
    store: PackStore, tmp_path: Path
) -> None:
    fill(store, range(100), tmp_path)
    Roots(store.packs).write_root("all", [key_of(number) for number in range(300)])
    with ExitStack() as running:
        writers = [
            running.enter_context(start(str(tmp_path), 50, 300, order)) for order in range(3)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for _ in range(5):
            collect(store)
            threading.Event().wait(0.05)
        for writer in writers:
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    for path in pack_files(tmp_path):
        age(path, DAY_S)
    collect(store)
    assert held(tmp_path) == entries(*range(300))


def test_many_writers_to_one_bucket_leave_every_entry_once(
    server: str, bucket: Bucket, prefix: str
) -> None:
    location, blobs = f"{server}#{prefix}", S3Blobs(bucket.store, prefix=prefix)
    with ExitStack() as running:
        writers = [running.enter_context(start(location, 0, 60, order)) for order in range(3)]
        for writer in writers:
            writer.communicate()
    store = small_store(blobs)
    Roots(store.packs).write_root("all", [key_of(number) for number in range(60)])
    report = collect(store, grace_s=0.0)
    fresh = small_store(blobs)
    assert dict(fresh.read_many(key_of(number) for number in range(60))) == entries(*range(60))
    assert fresh.stats().num_entries == 60
    assert report.num_copies > 0


def test_a_damaged_root_stops_a_collection(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(10), tmp_path)
    roots = Roots(store.packs)
    roots.write_root("cats", [key_of(1)])
    path = tmp_path / "emb" / "roots" / "cats"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BlobCorrupt):
        collect(store)
    assert held(tmp_path) == entries(*range(10))


def test_a_full_disk_stops_a_collection_and_nothing_is_lost(tmp_path: Path) -> None:
    wide = small_store(LocalBlobs(tmp_path))
    fill(wide, range(60), tmp_path)
    Roots(wide.packs).write_root("most", [key_of(number) for number in range(58)])
    store = PackStore(LocalBlobs(tmp_path), namespace="emb")
    with files_no_larger_than(2**13), pytest.raises(StoreFull):
        collect(store)
    assert held(tmp_path).items() >= entries(*range(58)).items()


def test_a_bucket_that_fails_stops_a_collection_and_nothing_is_lost(
    far: S3Blobs, proxy: FaultyProxy
) -> None:
    store = small_store(far)
    for number in range(30):
        store.put(key_of(number), data_of(number))
    store.flush()
    Roots(store.packs).write_root("some", [key_of(number) for number in range(0, 30, 2)])
    proxy.cause(Fault(method="PUT", path="/emb/packs/", kind="500", num_times=2))
    with pytest.raises(SourceUnavailable):
        collect(store, older_than_s=-10.0, grace_s=0.0)
    kept = dict(small_store(far).read_many(key_of(number) for number in range(0, 30, 2)))
    assert kept == entries(*range(0, 30, 2))


def test_a_collection_that_takes_too_long_stops_and_the_next_goes_on(
    store: PackStore, tmp_path: Path
) -> None:
    fill(store, range(60), tmp_path)
    Roots(store.packs).write_root("cats", [key_of(number) for number in range(0, 60, 3)])
    report = collect(store, limit_s=-1.0)
    assert not report.is_complete
    assert held(tmp_path).items() >= entries(*range(0, 60, 3)).items()
    assert collect(store).is_complete
    assert held(tmp_path) == entries(*range(0, 60, 3))


def test_verifying_reads_everything(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(30), tmp_path)
    advanced: list[int] = []
    report = verify(small_store(LocalBlobs(tmp_path)), advance=advanced.append)
    assert (report.num_entries, report.num_packs, report.is_whole) == (30, 3, True)
    assert report.size_bytes == sum(len(data_of(number)) for number in range(30))
    assert sum(advanced) == 30


def test_verifying_finds_damage_and_collecting_removes_it(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(30), tmp_path)
    first, second, _ = pack_files(tmp_path)
    for path, at in ((first, 10), (second, -100)):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.chmod(0o644)
        path.write_bytes(bytes(data))
        age(path, DAY_S)
    fresh = small_store(LocalBlobs(tmp_path))
    report = verify(fresh)
    assert (report.num_damaged, report.num_damaged_packs, report.num_quarantined) == (1, 1, 2)
    assert not report.is_whole
    assert report.num_entries == 19
    again = verify(fresh)
    assert again.is_whole
    assert again.num_quarantined == 2
    Roots(store.packs).write_root("all", [key_of(number) for number in range(30)])
    for path in (tmp_path / "emb" / "quarantine").rglob("*"):
        age(path, DAY_S)
    collect(fresh)
    assert verify(fresh).num_quarantined == 0
    assert len(held(tmp_path)) == 19


def test_a_budget_alone_leaves_what_fits_it(store: PackStore, tmp_path: Path) -> None:
    fill(store, range(20), tmp_path)
    size_bytes = sum(len(data_of(number)) for number in range(20))
    assert collect(store, older_than_s=None, budget_bytes=size_bytes).num_collected == 0
    assert held(tmp_path) == entries(*range(20))


def test_without_age_and_budget_everything_goes_that_nothing_needs(
    store: PackStore, tmp_path: Path
) -> None:
    fill(store, range(20), tmp_path)
    assert collect(store, older_than_s=None).num_collected == 20
