"""A pack is read as it was written, or is seen to be damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.embeddings.pack import (
    Pack,
    PackRef,
    build_pack,
    checked,
    parse_tail,
    split_entries,
)
from diptych.errors import BlobCorrupt
from support.packed import data_of, key_of

ENTRIES = [(bytes.fromhex(key_of(number).hex), data_of(number)) for number in range(5)]


def whole(pack: Pack) -> bytes:
    return b"".join(pack.pieces)


def ref_of(pack: Pack, size_bytes: int | None = None) -> PackRef:
    size_bytes = len(whole(pack)) if size_bytes is None else size_bytes
    return PackRef(name=pack.name, size_bytes=size_bytes, modified_s=0.0)


def tail_of(pack: Pack) -> bytes:
    return whole(pack)[-ref_of(pack).tail_bytes :]


def cut_up(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_its_tail_holds_its_rows() -> None:
    pack = build_pack(ENTRIES)
    rows = parse_tail(ref_of(pack), tail_of(pack))
    assert np.array_equal(rows, pack.rows)
    assert [key.tobytes() for key in rows["key"]] == [key for key, _ in ENTRIES]


def test_the_same_entries_are_never_the_same_pack() -> None:
    assert build_pack(ENTRIES).name != build_pack(ENTRIES).name


@given(size=st.integers(1, 3000), first=st.integers(0, 4), last=st.integers(0, 4))
def test_entries_are_split_however_their_bytes_come(size: int, first: int, last: int) -> None:
    pack = build_pack(ENTRIES)
    rows = pack.rows[[first, last]] if first < last else pack.rows[[first]]
    expected = [ENTRIES[first][1], ENTRIES[last][1]] if first < last else [ENTRIES[first][1]]
    data = whole(pack)[int(rows["offset"][0]) :]
    assert list(split_entries(rows, cut_up(data, size))) == expected


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(at: int, bit: int) -> None:
    pack = build_pack(ENTRIES)
    data = bytearray(whole(pack))
    data[at % len(data)] ^= 1 << bit
    body, tail = bytes(data[: -len(tail_of(pack))]), bytes(data[-len(tail_of(pack)) :])
    found = list(split_entries(pack.rows, [body]))
    is_noticed = found.count(None) == 1
    try:
        parse_tail(ref_of(pack), tail)
    except BlobCorrupt:
        is_noticed = True
    assert is_noticed


@pytest.mark.parametrize("num_left", [0, 1, 100, 1000])
def test_entries_that_were_cut_off_are_damaged(num_left: int) -> None:
    pack = build_pack(ENTRIES)
    found = list(split_entries(pack.rows, [whole(pack)[:num_left]]))
    assert len(found) == len(ENTRIES)
    assert found[-1] is None


@pytest.mark.parametrize("size_bytes", [-1, 1])
def test_a_pack_of_another_size_is_damaged(size_bytes: int) -> None:
    pack = build_pack(ENTRIES)
    with pytest.raises(BlobCorrupt, match="that of"):
        parse_tail(ref_of(pack, len(whole(pack)) + size_bytes), tail_of(pack))


@pytest.mark.parametrize("tail", [b"", b"short", bytes(64), bytes(1000)])
def test_what_is_no_tail_is_damaged(tail: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        parse_tail(ref_of(build_pack(ENTRIES)), tail)


def test_a_tail_of_another_pack_is_damaged() -> None:
    with pytest.raises(BlobCorrupt):
        parse_tail(ref_of(build_pack(ENTRIES)), tail_of(build_pack(ENTRIES)))


@pytest.mark.parametrize("name", ["", "x-1", f"{'0' * 64}-0", f"{'0' * 64}", f"{'0' * 64}-9"])
def test_a_name_or_size_that_no_pack_has_is_seen(name: str) -> None:
    assert not PackRef(name=name, size_bytes=500, modified_s=0.0).is_valid


def test_bytes_are_checked_against_their_digest() -> None:
    row = build_pack(ENTRIES).rows[0]
    assert checked(ENTRIES[0][1], row["sha256"].tobytes()) == ENTRIES[0][1]
    assert checked(ENTRIES[1][1], row["sha256"].tobytes()) is None
