"""Only safetensors is read, within limits, and written in one spelling."""

import io
import json
import pickle  # noqa: TID251 - makes what must be refused
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from diptych.adapters import tensor_file
from diptych.adapters.tensor_file import MAX_FILE_BYTES, read_tensors, to_pieces
from diptych.errors import AdapterInvalid, PickleRefused
from support.made_adapters import DTYPES, noise

PLAIN = save({"a": torch.arange(6.0).view(2, 3), "alpha": torch.tensor(4)}, {"format": "pt"})


def saved_by_torch(*, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def test_reads_tensors_and_texts_of_bytes() -> None:
    file = read_tensors(PLAIN, source="here")
    assert file.tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.tensors["alpha"].item() == 4
    assert file.metadata == {"format": "pt"}


def test_reads_a_file_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(PLAIN)
    assert torch.equal(
        read_tensors(path, source="here").tensors["a"],
        read_tensors(PLAIN, source="here").tensors["a"],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_numbers_that_are_not_aligned(dtype: torch.dtype) -> None:
    data = save({"a": noise(3, dtype=dtype)})
    size = int.from_bytes(data[:8], "little")
    shifted = with_header(data[8 : 8 + size] + b" ", data[8 + size :])
    assert torch.equal(read_tensors(shifted, source="").tensors["a"], noise(3, dtype=dtype))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".PT"])
def test_refuses_a_pickle_by_name_unread(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(PickleRefused, match=r"only \.safetensors weights are read"):
        read_tensors(tmp_path / f"missing{suffix}", source="here")


@pytest.mark.parametrize(
    "data",
    [
        saved_by_torch(zipped=True),
        saved_by_torch(zipped=False),
        *(pickle.dumps({"a": [1.0] * 20}, protocol=protocol) for protocol in (2, 3, 4, 5)),
    ],
    ids=["zip", "legacy", "2", "3", "4", "5"],
)
def test_refuses_a_pickle_by_content(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "harmless.safetensors"
    path.write_bytes(data)
    for given_as in (data, path):
        with pytest.raises(PickleRefused):
            read_tensors(given_as, source="here")


def test_a_header_length_that_looks_like_a_pickle_is_none() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    data = with_header(header.ljust(0x280), bytes(4))
    assert data[:2] == b"\x80\x02"
    assert read_tensors(data, source="here").tensors["a"].item() == 0


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, len(PLAIN) - 1])
def test_refuses_what_was_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(PLAIN[:size])
    for given_as in (PLAIN[:size], path):
        with pytest.raises(AdapterInvalid, match="adapter here: "):
            read_tensors(given_as, source="here")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises((AdapterInvalid, PickleRefused)):
        read_tensors(data + b"x", source="here")


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_a_byte_changed_anywhere_is_read_or_refused(position: int, value: int) -> None:
    data = bytearray(PLAIN)
    data[position] = value
    try:
        read_tensors(bytes(data), source="here")
    except (AdapterInvalid, PickleRefused) as error:
        assert "here" in str(error)  # noqa: PT017 - reading may as well succeed


BAD_TENSORS = {
    "empty": ({"a": torch.zeros(0, 4)}, r"'a' of shape \[0, 4\] is empty"),
    "int": ({"a": torch.zeros(2, 2, dtype=torch.int64)}, "holds I64, expected F64, F32, F16"),
    "int8": ({"a": torch.zeros(2, 2, dtype=torch.int8)}, "holds I8"),
    "bool": ({"a": torch.zeros(2, dtype=torch.bool)}, "holds BOOL"),
    "fp8": ({"a": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, "unknown dtype 'F8_E4M3'"),
}


@pytest.mark.parametrize(("tensors", "problem"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_refuses_tensors_that_are_no_weights(
    tensors: dict[str, torch.Tensor], problem: str
) -> None:
    with pytest.raises(AdapterInvalid, match=problem):
        read_tensors(save(tensors), source="here")


def test_refuses_a_file_over_the_limit_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(AdapterInvalid, match="the limit is 4294967296"):
        read_tensors(path, source="here")


def test_refuses_more_tensors_than_any_adapter_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "MAX_TENSORS", 1)
    with pytest.raises(AdapterInvalid, match="has 2 tensors, the limit is 1"):
        read_tensors(PLAIN, source="here")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="cannot be read: No such file"):
        read_tensors(tmp_path / "none.safetensors", source="here")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="cannot be read"):
        read_tensors(tmp_path, source="here")


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_reads_what_is_written(dtype: torch.dtype) -> None:
    tensors = {"b": noise(2, 3, dtype=dtype), "a": noise(5), "c": torch.tensor(1.0)}
    found = load(b"".join(to_pieces(tensors, {"x": "y"})))
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


def test_the_order_of_keys_does_not_show() -> None:
    tensors = {"b": noise(2, 3), "a": noise(5, dtype=torch.float16), "c": noise(1)}
    backwards = dict(sorted(tensors.items(), reverse=True))
    assert b"".join(to_pieces(tensors, {"x": "1", "y": "2"})) == b"".join(
        to_pieces(backwards, {"y": "2", "x": "1"})
    )


def test_every_tensor_written_is_aligned() -> None:
    tensors = {"a": noise(3, dtype=torch.float16), "b": noise(3), "c": noise(3).double()}
    data = b"".join(to_pieces(tensors, {}))
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    assert [(8 + size + entries[key]["data_offsets"][0]) % 8 for key in "cb"] == [0, 0]
