"""Packs in any store: seen when they are whole, put aside when they are damaged."""

from pathlib import Path

import pytest

from diptych.embeddings.pack import PackRef
from diptych.embeddings.packs import Packs, answering
from diptych.errors import BlobNotFound, InvalidRequest, SourceUnavailable
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from support.packed import age, data_of, key_of, pack_files

ENTRIES = [(bytes.fromhex(key_of(number).hex), data_of(number)) for number in range(5)]


@pytest.fixture
def packs(blobs: BlobStore) -> Packs:
    return Packs(blobs, namespace="emb")


@pytest.fixture
def local(tmp_path: Path) -> Packs:
    return Packs(LocalBlobs(tmp_path), namespace="emb")


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def test_what_was_written_is_listed_and_read(packs: Packs) -> None:
    ref, rows = packs.write(ENTRIES)
    assert packs.listing() == [ref]
    assert packs.rows(ref) is not None
    assert list(packs.entries(ref, rows)) == [data for _, data in ENTRIES]
    assert list(packs.entries(ref, rows[2:4])) == [ENTRIES[2][1], ENTRIES[3][1]]
    assert list(packs.entries(ref, rows[[0, 3]])) == [ENTRIES[0][1], ENTRIES[3][1]]


def test_a_pack_that_was_removed_has_no_rows_and_no_entries(packs: Packs) -> None:
    ref, rows = packs.write(ENTRIES)
    packs.remove(ref)
    packs.remove(ref)
    assert packs.listing() == []
    assert packs.rows(ref) is None
    assert not packs.is_put_aside(ref)
    with pytest.raises(BlobNotFound):
        list(packs.entries(ref, rows))


def test_a_damaged_entry_is_none_and_can_be_put_aside(packs: Packs) -> None:
    ref, rows = packs.write(ENTRIES)
    key = f"emb/packs/{ref.name}"
    data = bytearray(b"".join(packs.blobs.read(key)))
    data[int(rows["offset"][2])] ^= 1
    packs.blobs.put(key, [bytes(data)])
    found = list(packs.entries(ref, rows))
    assert [at for at, entry in enumerate(found) if entry is None] == [2]
    packs.put_aside(ref, rows[2:3])
    assert packs.quarantined() == {ref.name: {ENTRIES[2][0]}}


def test_other_files_among_packs_are_passed_over(packs: Packs) -> None:
    packs.blobs.put("emb/packs/readme.txt", [b"hello"])
    packs.blobs.put(f"emb/packs/{'0' * 64}-3", [b"too short"])
    assert packs.listing() == []


def test_a_pack_whose_index_is_damaged_is_put_aside(local: Packs, tmp_path: Path) -> None:
    ref, _ = local.write(ENTRIES)
    damage(pack_files(tmp_path)[0], -100)
    assert local.rows(ref) is None
    assert local.is_put_aside(ref)
    assert local.listing() == []


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_pack_that_was_cut_is_put_aside(local: Packs, tmp_path: Path, share: float) -> None:
    ref, _ = local.write(ENTRIES)
    (path,) = pack_files(tmp_path)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: int(ref.size_bytes * share)])
    assert [local.rows(listed) for listed in local.listing()] in ([None], [])
    assert local.listing() == [] or share < 0.5


def test_the_clock_is_the_stores_own(local: Packs, packs: Packs, tmp_path: Path) -> None:
    ref, _ = local.write(ENTRIES)
    age(pack_files(tmp_path)[0], 100)
    (aged,) = local.listing()
    assert 99 < local.now_s() - aged.modified_s < 160
    assert 0 <= local.now_s() - ref.modified_s < 60
    assert packs.now_s() <= packs.now_s()
    assert list(packs.blobs.listing("emb/clock/")) == []


def test_a_use_is_noted_without_changing_the_age(local: Packs, tmp_path: Path) -> None:
    ref, _ = local.write(ENTRIES)
    age(pack_files(tmp_path)[0], 100)
    (aged,) = local.listing()
    before_s = local.used_s(aged)
    local.touch(aged)
    assert local.used_s(aged) > before_s + 99
    assert local.listing() == [aged]
    assert aged.name == ref.name


def test_a_pack_elsewhere_was_used_when_it_was_written(packs: Packs) -> None:
    ref = PackRef(name=f"{'0' * 64}-1", size_bytes=200, modified_s=7.0)
    packs.touch(ref)
    assert packs.used_s(ref) == 7.0


def test_a_namespace_cannot_leave_the_store(packs: Packs) -> None:
    with pytest.raises(InvalidRequest):
        Packs(packs.blobs, namespace="../up")


def test_an_error_of_the_disk_is_this_packages_own() -> None:
    with pytest.raises(SourceUnavailable, match="Input/output error"), answering("here"):
        raise OSError(5, "Input/output error")
