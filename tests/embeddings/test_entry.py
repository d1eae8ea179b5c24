"""Entries are safetensors; what is not one is refused."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from diptych.embeddings.entry import Entry, TensorValue, read_entry, write_entry
from diptych.errors import EmbeddingInvalid

MEAN = np.arange(8, dtype=np.float32)
ENTRY = Entry(
    kind="image",
    tensors={
        "mean": TensorValue(dtype="F32", shape=(2, 4), data=MEAN.tobytes()),
        "std": TensorValue(dtype="F16", shape=(2,), data=b"\x00\x3c\x00\x40"),
    },
)


def test_reads_what_it_wrote() -> None:
    assert read_entry(write_entry(ENTRY)) == ENTRY


def test_safetensors_reads_what_it_wrote() -> None:
    assert np.array_equal(load(write_entry(ENTRY))["mean"], MEAN.reshape(2, 4))


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
    data = write_entry(ENTRY).replace(b'"shape":[2,4]', b'"shape":[2,5]')
    with pytest.raises(EmbeddingInvalid, match="does not fit"):
        read_entry(data)
