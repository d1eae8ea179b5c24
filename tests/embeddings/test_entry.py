"""Entries are safetensors; what is not one is refused."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load, save

from diptych.embeddings.entry import Entry, TensorValue, check_finite, read_entry, write_entry
from diptych.errors import EmbeddingInvalid

MEAN = np.arange(8, dtype=np.float32)
ENTRY = Entry(
    kind="image",
    tensors={
        "mean": TensorValue(dtype="F32", shape=(2, 2, 2), data=MEAN.tobytes()),
        "std": TensorValue(dtype="F16", shape=(2, 2, 2), data=b"\x00\x3c" * 8),
    },
)


def test_reads_what_it_wrote() -> None:
    assert read_entry(write_entry(ENTRY)) == ENTRY


def test_safetensors_reads_what_it_wrote() -> None:
    assert np.array_equal(load(write_entry(ENTRY))["mean"], MEAN.reshape(2, 2, 2))


@pytest.mark.parametrize("size", [0, 4, 20, 150, len(write_entry(ENTRY)) - 1])
def test_refuses_what_was_cut(size: int) -> None:
    with pytest.raises(EmbeddingInvalid):
        read_entry(write_entry(ENTRY)[:size])


def test_refuses_bytes_beyond_its_tensors() -> None:
    with pytest.raises(EmbeddingInvalid, match="leave bytes"):
        read_entry(write_entry(ENTRY) + b"\x00")


def test_refuses_tensors_of_no_known_kind() -> None:
    with pytest.raises(EmbeddingInvalid, match="no known kind"):
        read_entry(save({"mean": MEAN}))


def test_refuses_a_header_that_claims_more_than_there_is() -> None:
    with pytest.raises(EmbeddingInvalid, match="claims"):
        read_entry(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"{}")


def test_refuses_a_shape_that_does_not_fit_its_bytes() -> None:
    data = write_entry(ENTRY).replace(b'"shape":[2,2,2]', b'"shape":[2,2,3]', 1)
    with pytest.raises(EmbeddingInvalid, match="does not fit"):
        read_entry(data)


def spelt(header: bytes | dict[str, object], body: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def prompt(hidden: dict[str, object], pooled: dict[str, object]) -> dict[str, object]:
    usual = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    other = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    return {
        "__metadata__": {"kind": "prompt"},
        "hidden": usual | hidden,
        "pooled": other | pooled,
    }


def test_reads_what_others_spell() -> None:
    assert read_entry(spelt(prompt({}, {}))).tensors["hidden"].shape == (1, 1)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 60_000,
        {"__metadata__": {"kind": []}},
        {"__metadata__": {"kind": {"prompt": 1}}},
        prompt({"shape": [float("inf"), 1]}, {}),
        prompt({"shape": [10**400, 1]}, {}),
        prompt({"shape": ["1", 1]}, {}),
        prompt({"shape": [1.5, 1]}, {}),
        prompt({"shape": [True, 1]}, {}),
        prompt({"dtype": ["F32"]}, {}),
        prompt({"dtype": None}, {}),
        prompt({"data_offsets": [0, 4, 8]}, {}),
        prompt({"data_offsets": 4}, {}),
        prompt({"data_offsets": [-4, 4]}, {}),
        {"__metadata__": {"kind": "prompt"}, "hidden": [], "pooled": None},
    ],
)
def test_refuses_a_header_that_is_none(header: bytes | dict[str, object]) -> None:
    with pytest.raises(EmbeddingInvalid):
        read_entry(spelt(header))


def test_refuses_tensors_that_overlap() -> None:
    with pytest.raises(EmbeddingInvalid, match="overlap"):
        read_entry(spelt(prompt({}, {"data_offsets": [0, 4]})))


@pytest.mark.parametrize(
    "header", [prompt({"shape": [1]}, {}), prompt({}, {"shape": [1, 1]}), prompt({"shape": []}, {})]
)
def test_refuses_shapes_that_its_kind_has_not(header: dict[str, object]) -> None:
    with pytest.raises(EmbeddingInvalid, match="no shapes"):
        read_entry(spelt(header))


def test_refuses_a_mean_and_a_std_of_different_shapes() -> None:
    mean = {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]}
    std = {"dtype": "F32", "shape": [1, 2, 1], "data_offsets": [8, 16]}
    header = {"__metadata__": {"kind": "image"}, "mean": mean, "std": std}
    with pytest.raises(EmbeddingInvalid, match="no shapes"):
        read_entry(spelt(header, bytes(16)))


def test_says_what_is_wrong_in_a_few_words() -> None:
    with pytest.raises(EmbeddingInvalid) as caught:
        read_entry(spelt({"x" * 50_000: 1} | prompt({"dtype": "y" * 9000}, {})))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2")])
def test_finds_values_that_are_not_finite(dtype: str, numpy_dtype: str, value: float) -> None:
    data = np.array([1.0, value], numpy_dtype).tobytes()
    with pytest.raises(EmbeddingInvalid, match="pooled holds values that are not finite"):
        check_finite(one_of(dtype, data, 2))


def test_finds_values_that_are_not_finite_in_bfloat16() -> None:
    data = np.array([1.0, float("nan")], "<f4").tobytes()
    with pytest.raises(EmbeddingInvalid, match="not finite"):
        check_finite(one_of("BF16", data[2:4] + data[6:8], 2))


def test_finite_values_pass() -> None:
    check_finite(one_of("F16", np.array([65504.0, -0.0], "<f2").tobytes(), 2))


def one_of(dtype: str, data: bytes, size: int) -> Entry:
    tensor = TensorValue(dtype=dtype, shape=(size,), data=data)
    return Entry(kind="prompt", tensors={"pooled": tensor})
