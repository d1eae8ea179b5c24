"""A store of packs: one process's view of what many write, whatever breaks."""

import gc
import random
import secrets
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.packs import Packs
from diptych.errors import SourceUnavailable, StoreFull
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs
from diptych.storage.s3_blobs import S3Blobs
from support.buckets import Bucket
from support.faulty_proxy import Fault, FaultyProxy
from support.full_disk import files_no_larger_than
from support.packed import SMALL, data_of, key_of, pack_files, small_store, start

KEYS = [key_of(number) for number in range(60)]


def fill(store: PackStore, numbers: range = range(60)) -> PackStore:
    for number in numbers:
        store.put(key_of(number), data_of(number))
    store.flush()
    return store


def is_whole(found: dict[Digest, bytes], numbers: range = range(60)) -> bool:
    return found == {key_of(number): data_of(number) for number in numbers}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


def test_what_was_put_is_found_by_every_process(blobs: BlobStore) -> None:
    writer, reader = small_store(blobs), small_store(blobs)
    fill(writer)
    for store in (writer, reader):
        assert store.get(key_of(7)) == data_of(7)
        assert store.get(key_of(99)) is None
        assert is_whole(dict(store.read_many([*KEYS, key_of(99)])))
        assert store.missing([key_of(99), key_of(1)]) == [key_of(99)]
    assert sorted(reader.keys()) == sorted(KEYS)
    assert 1 < reader.stats().num_packs < 20


def test_entries_are_read_pack_after_pack_in_the_order_of_their_bytes(local: LocalBlobs) -> None:
    fill(small_store(local))
    shuffled = random.Random(1).sample(KEYS, len(KEYS))
    assert [key for key, _ in small_store(local).read_many(shuffled)] == KEYS


def test_what_waits_can_be_read_and_is_not_missing(local: LocalBlobs) -> None:
    store = small_store(local)
    store.put(key_of(1), data_of(1))
    assert store.get(key_of(1)) == data_of(1)
    assert store.missing([key_of(1)]) == []
    assert dict(store.read_many([key_of(1)])) == {key_of(1): data_of(1)}
    assert store.stats().num_waiting == 1


def test_what_is_there_is_not_written_again(local: LocalBlobs, tmp_path: Path) -> None:
    fill(fill(small_store(local)))
    num_packs = len(pack_files(tmp_path))
    fill(small_store(local, SMALL))
    assert len(pack_files(tmp_path)) == 2 * num_packs


def test_closing_writes_what_waits(local: LocalBlobs) -> None:
    store = small_store(local)
    store.put(key_of(1), data_of(1))
    store.close()
    assert small_store(local).get(key_of(1)) == data_of(1)


def test_packs_of_others_are_looked_for_only_now_and_then(local: LocalBlobs) -> None:
    now_s = [100.0]
    store = PackStore(
        local, namespace="emb", config=replace(SMALL, refresh_s=5.0), clock=lambda: now_s[0]
    )
    assert store.get(key_of(1)) is None
    fill(small_store(local), range(2))
    assert store.get(key_of(1)) is None
    now_s[0] += 5.1
    assert store.get(key_of(1)) == data_of(1)


def test_a_tampered_entry_is_a_miss_is_counted_and_heals(local: LocalBlobs, tmp_path: Path) -> None:
    fill(small_store(local))
    flip(pack_files(tmp_path)[0], 10)
    store = small_store(local)
    found = dict(store.read_many(KEYS))
    (lost,) = set(KEYS) - set(found)
    assert store.get(lost) is None
    assert store.missing(KEYS) == [lost]
    assert store.stats().num_damaged == 1
    assert small_store(local).missing(KEYS) == [lost]
    store.put(lost, data_of(KEYS.index(lost)))
    store.flush()
    assert is_whole(dict(small_store(local).read_many(KEYS)))
    assert len(list((tmp_path / "emb" / "quarantine").rglob("*"))) == 2


def test_a_pack_that_was_cut_is_a_miss_is_counted_and_heals(
    local: LocalBlobs, tmp_path: Path
) -> None:
    fill(small_store(local))
    path = pack_files(tmp_path)[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    store = small_store(local)
    missing = store.missing(KEYS)
    assert 0 < len(missing) < len(KEYS)
    assert store.stats().num_damaged_packs == 1
    for key in missing:
        store.put(key, data_of(KEYS.index(key)))
    store.flush()
    assert is_whole(dict(small_store(local).read_many(KEYS)))


def test_a_pack_that_is_cut_while_it_is_in_use_is_a_miss(local: LocalBlobs, tmp_path: Path) -> None:
    store = fill(small_store(local))
    path = pack_files(tmp_path)[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:700])
    assert 40 < len(dict(store.read_many(KEYS))) < len(KEYS)


def test_a_pack_that_goes_while_it_is_in_use_is_a_miss(local: LocalBlobs, tmp_path: Path) -> None:
    store = fill(small_store(local))
    pack_files(tmp_path)[0].unlink()
    found = dict(store.read_many(KEYS))
    assert 40 < len(found) < len(KEYS)
    assert set(store.missing(KEYS)) == set(KEYS) - set(found)


def test_a_full_disk_is_told_and_what_is_there_is_still_served(tmp_path: Path) -> None:
    store = small_store(LocalBlobs(tmp_path), replace(SMALL, pack_bytes=2**20))
    store.put(key_of(1), data_of(1))
    store.flush()
    with files_no_larger_than(2**13), pytest.raises(StoreFull):
        fill(store, range(2, 60))
    assert store.stats().num_lost == 58
    assert store.get(key_of(1)) == data_of(1)
    assert store.get(key_of(2)) is None
    fill(store, range(2, 5))
    assert store.get(key_of(2)) == data_of(2)


def test_a_disk_that_cannot_be_written_to_is_told_and_still_serves(
    public_folder: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    fill(small_store(LocalBlobs(public_folder)), range(3))
    for folder in (public_folder, *(path for path in public_folder.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    flip(pack_files(public_folder)[0], 10)
    (public_folder / ".partial" / "left").touch()
    with unprivileged():
        store = small_store(LocalBlobs(public_folder))
        assert store.get(key_of(0)) is None
        assert store.get(key_of(1)) == data_of(1)
        with pytest.raises(SourceUnavailable, match="Permission denied"):
            fill(store, range(3, 5))
    assert store.stats().num_failed_writes == 1
    assert store.stats().num_damaged == 1


@pytest.mark.parametrize("status", ["500", "503", "403", "reset", "stall"])
def test_a_bucket_that_fails_to_answer_is_told(
    far: S3Blobs, proxy: FaultyProxy, status: str
) -> None:
    store = fill(small_store(far), range(3))
    proxy.cause(Fault(method="GET", kind=status, num_times=4))
    with pytest.raises(SourceUnavailable):
        small_store(far).get(key_of(1))
    proxy.forget()
    assert small_store(far).get(key_of(1)) == data_of(1)
    proxy.cause(Fault(method="PUT", kind=status, num_times=4))
    with pytest.raises(SourceUnavailable):
        fill(store, range(3, 6))
    assert store.stats().num_lost == 3
    proxy.forget()
    assert is_whole(dict(fill(store, range(3, 6)).read_many(KEYS)), range(6))


@pytest.mark.parametrize("kind", ["500", "reset", "cut", "flip"])
def test_a_bucket_that_fails_once_is_asked_again(
    far: S3Blobs, proxy: FaultyProxy, kind: str
) -> None:
    fill(small_store(far))
    store = small_store(far)
    store.refresh()
    proxy.cause(Fault(method="GET", path="/emb/packs/", kind=kind))
    assert is_whole(dict(store.read_many(KEYS)))
    assert store.stats().num_damaged == 0


def test_an_index_that_was_damaged_on_its_way_is_read_again(
    far: S3Blobs, proxy: FaultyProxy
) -> None:
    fill(small_store(far))
    proxy.cause(Fault(method="GET", path="/emb/packs/", kind="flip"))
    store = small_store(far)
    assert is_whole(dict(store.read_many(KEYS)))
    assert store.stats().num_damaged_packs == 0


def test_an_object_that_is_gone_is_a_miss(far: S3Blobs, proxy: FaultyProxy) -> None:
    store = fill(small_store(far), range(3))
    proxy.cause(Fault(method="GET", path="/emb/packs/", kind="404"))
    assert store.get(key_of(1)) == data_of(1) or store.get(key_of(1)) is None
    assert store.stats().num_damaged == 0


@pytest.fixture(params=["folder", "bucket"])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket, server: str, prefix: str
) -> tuple[str, BlobStore]:
    """Return where many processes write, and this process's view of it."""
    if request.param == "folder":
        return str(tmp_path), LocalBlobs(tmp_path)
    return f"{server}#{prefix}", S3Blobs(bucket.store, prefix=prefix)


def test_many_processes_write_at_once_and_two_are_killed(shared: tuple[str, BlobStore]) -> None:
    location, blobs = shared
    with ExitStack() as running:
        writers = [running.enter_context(start(location, 0, 200, order)) for order in range(5)]
        for victim, wait_s in ((writers[0], 0.02), (writers[1], 0.1)):
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"writing\n"
            threading.Event().wait(wait_s)
            victim.kill()
        outputs = [writer.communicate()[0] for writer in writers]
    assert [b"done" in output for output in outputs[2:]] == [True] * 3
    store = small_store(blobs)
    numbers = range(200)
    assert is_whole(dict(store.read_many(key_of(number) for number in numbers)), numbers)
    assert store.stats().num_damaged == store.stats().num_damaged_packs == 0


def test_a_writer_killed_at_any_moment_leaves_no_half_pack(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:

        def kill_after(wait_s: float) -> None:
            with start(str(tmp_path), 0, 4000, int(wait_s * 1000)) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                threading.Event().wait(wait_s)
                writer.kill()

        list(pool.map(kill_after, [0.0, 0.013, 0.031, 0.057, 0.083, 0.15]))
    store = small_store(LocalBlobs(tmp_path))
    store.refresh()
    found = dict(store.read_many(store.keys()))
    assert len(found) == len(set(store.keys()))
    keys = {key_of(number): number for number in range(4000)}
    assert all(data == data_of(keys[key]) for key, data in found.items())
    assert store.stats().num_damaged == store.stats().num_damaged_packs == 0
    assert not list((tmp_path / ".partial").iterdir())


def test_readers_and_writers_in_many_threads_agree(local: LocalBlobs) -> None:
    store = small_store(local)

    def work(worker: int) -> int:
        for number in range(worker * 20, worker * 20 + 40):
            store.put(key_of(number), data_of(number))
            assert store.get(key_of(number)) == data_of(number)
        return len(dict(store.read_many(key_of(number) for number in range(200))))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    store.flush()
    assert is_whole(dict(store.read_many(key_of(number) for number in range(180))), range(180))


def test_many_entries_open_quickly_in_a_hundred_bytes_each() -> None:
    blobs = MemoryBlobs()
    packs = Packs(blobs, namespace="emb")
    for _ in range(50):
        raw = secrets.token_bytes(32 * 4000)
        packs.write((raw[at : at + 32], b"x") for at in range(0, len(raw), 32))
    store = small_store(blobs)
    tracemalloc.start()
    store.refresh()
    begun_s = time.perf_counter()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.stats().num_entries == 200_000
    assert held_bytes < 110 * 200_000
    assert all(store.get(key_of(number)) is None for number in range(10))
    fresh = small_store(blobs)
    fresh.refresh()
    assert time.perf_counter() - begun_s < 5


def test_memory_does_not_grow_with_the_entries_served(local: LocalBlobs) -> None:
    store = fill(small_store(local), range(200))
    keys = [key_of(number) for number in range(200)]

    def traced_after(rounds: int) -> int:
        for _ in range(rounds):
            for _, data in store.read_many(keys):
                del data
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before_bytes = traced_after(2)
    after_bytes = traced_after(30)
    tracemalloc.stop()
    assert after_bytes - before_bytes < 20_000


def test_many_who_wait_for_a_bucket_that_fails_wait_once(far: S3Blobs, proxy: FaultyProxy) -> None:
    store = small_store(far)
    proxy.cause(Fault(method="GET", kind="500", num_times=99))
    start = threading.Barrier(8)

    def ask(number: int) -> str:
        start.wait()
        try:
            store.get(key_of(number))
        except SourceUnavailable:
            return "told"
        return "missed"

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"told"}
    assert len(proxy.requests) < 8 * 3
