"""Entries and packs that are taken out are gone, and the others stay."""

from pathlib import Path

import pytest

from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.removal import delete_entries, evict_packs
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from support.packed import age, data_of, key_of, pack_files, small_store


@pytest.fixture
def store(blobs: BlobStore) -> PackStore:
    filled = small_store(blobs)
    for number in range(60):
        filled.put(key_of(number), data_of(number))
    filled.flush()
    return filled


def test_deleted_entries_are_gone_for_everyone_and_others_stay(
    store: PackStore, blobs: BlobStore
) -> None:
    gone = [key_of(number) for number in (0, 7, 8, 59, 99)]
    assert delete_entries(store, gone) == 4
    for one in (store, small_store(blobs)):
        assert sorted(one.missing(gone)) == sorted(gone)
        kept = dict(one.read_many(key_of(number) for number in range(60)))
        assert kept == {
            key_of(number): data_of(number) for number in range(60) if key_of(number) not in gone
        }


def test_all_copies_of_an_entry_are_deleted(store: PackStore, blobs: BlobStore) -> None:
    store.write_pack({bytes.fromhex(key_of(1).hex): data_of(1)})
    assert delete_entries(store, [key_of(1)]) == 1
    assert small_store(blobs).get(key_of(1)) is None


def test_what_waits_to_be_written_is_deleted_too(store: PackStore) -> None:
    store.put(key_of(70), data_of(70))
    assert delete_entries(store, [key_of(70)]) == 1
    assert store.get(key_of(70)) is None


def test_packs_unused_for_longest_go_first(tmp_path: Path) -> None:
    writer = small_store(LocalBlobs(tmp_path))
    for number in range(60):
        writer.put(key_of(number), data_of(number))
    writer.flush()
    for path in pack_files(tmp_path):
        age(path, 1000)
    store = small_store(LocalBlobs(tmp_path))
    assert store.get(key_of(0)) == data_of(0)
    gone = evict_packs(store, 6000)
    assert len(gone) >= 3
    assert sum(path.stat().st_size for path in pack_files(tmp_path)) <= 6000
    assert store.get(key_of(0)) == data_of(0)
    assert evict_packs(store, 6000) == []
    assert evict_packs(store, 0)
    assert pack_files(tmp_path) == []
