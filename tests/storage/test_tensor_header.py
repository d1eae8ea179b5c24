"""A safetensors header is believed only when the bytes bear it out."""

import io
import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from diptych.errors import AdapterInvalid, CheckpointInvalid, DiptychError
from diptych.storage.tensor_header import MAX_HEADER_BYTES, Header, parse_json, read_header


def refuse(problem: str) -> DiptychError:
    return CheckpointInvalid("here", problem)


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), size_bytes=len(data), refuse=refuse)


def written(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a header, as JSON or raw, and some data, as a file would hold them."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(
    begin: int, end: int, *, shape: object = None, dtype: object = "F32"
) -> dict[str, object]:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_safetensors_wrote() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(5, dtype=torch.float16), "c": torch.zeros(0)}
    header = read(save(tensors, {"format": "pt"}))
    assert {name: span.shape for name, span in header.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert header.metadata == {"format": "pt"}


def test_spans_point_at_the_bytes() -> None:
    data = save({"a": torch.arange(3, dtype=torch.int32), "b": torch.arange(4.0)})
    span = read(data).tensors["b"]
    assert data[span.begin : span.end] == struct.pack("<4f", 0, 1, 2, 3)


BAD_HEADERS = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "leaves a gap"),
    "beyond the end": ({"a": entry(0, 100_000_000_000)}, 8, "truncated"),
    "unowned bytes": ({"a": entry(0, 4)}, 8, "no tensor owns"),
    "shape and range": ({"a": entry(0, 8, shape=[3])}, 8, "needs 12 bytes and claims 8"),
    "huge shape": ({"a": entry(0, 8, shape=[2**40, 2**40])}, 8, "claims 8"),
    "negative shape": ({"a": entry(0, 8, shape=[-2])}, 8, "no valid shape"),
    "float shape": ({"a": entry(0, 8, shape=[2.0])}, 8, "no valid shape"),
    "bool shape": ({"a": entry(0, 4, shape=[True])}, 4, "no valid shape"),
    "rank": ({"a": entry(0, 4, shape=[1] * 9)}, 4, "no valid shape"),
    "reversed range": ({"a": entry(8, 4, shape=[1])}, 8, "claims -4"),
    "one offset": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 4, "data_offsets"),
    "dtype": ({"a": entry(0, 4, dtype="OBJECT")}, 4, "unknown dtype 'OBJECT'"),
    "dtype list": ({"a": entry(0, 4, dtype=["F32"])}, 4, "unknown dtype"),
    "no entry": ({"a": 5}, 0, "no description"),
    "metadata": ({"__metadata__": {"a": 1}}, 0, "metadata"),
    "list": ([1, 2], 0, "expected an object"),
    "no JSON": (b"{", 0, "no valid JSON"),
    "no UTF-8": (b"\xff\xfe", 0, "no valid JSON"),
    "key twice": (b'{"a": 1, "a": 2}', 0, "a key occurs twice"),
    "deep": (b'{"a":' + b"[" * 200_000, 0, "no valid JSON"),
}


@pytest.mark.parametrize(("header", "size", "problem"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_refuses_a_header_the_bytes_do_not_bear_out(
    header: object, size: int, problem: str
) -> None:
    with pytest.raises(CheckpointInvalid, match=problem):
        read(written(header, bytes(size)))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 100 * 2**30, 2**63])
def test_refuses_a_header_of_absurd_length_unread(length: int) -> None:
    with pytest.raises(CheckpointInvalid, match="the limit is"):
        read(written({}, length=length))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00" * 7])
def test_refuses_bytes_too_few_for_a_length(data: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match="truncated"):
        read(data)


def test_refuses_bytes_cut_within_their_header() -> None:
    with pytest.raises(CheckpointInvalid, match="truncated"):
        read(written({"a": entry(0, 4)}, length=4000))


def test_refuses_bytes_cut_within_their_data() -> None:
    with pytest.raises(CheckpointInvalid, match="truncated"):
        read(save({"a": torch.zeros(100)})[:-1])


def test_the_error_is_the_callers() -> None:
    with pytest.raises(AdapterInvalid, match="adapter mine: holds no valid JSON"):
        parse_json(b"{", lambda problem: AdapterInvalid("mine", problem))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_object_are_refused(raw: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match="here"):
        parse_json(b"[" + raw, refuse)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_object_is_read_back(value: dict[str, object]) -> None:
    assert parse_json(json.dumps(value).encode(), refuse) == value
