"""Tensors in files of a store."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from diptych.errors import BlobNotFound, CheckpointInvalid
from diptych.storage.local import LocalBlobs
from diptych.storage.memory import MemoryBlobs
from diptych.training.tensor_files import read_tensors, tensor_pieces

TENSORS = {
    "wide": torch.randn(3, 4, dtype=torch.float64),
    "weights": torch.randn(2, 3),
    "half": torch.randn(5).to(torch.bfloat16),
    "counts": torch.arange(4),
    "flags": torch.tensor([True, False]),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "step": torch.tensor(7.0),
    "none": torch.zeros(0, 3),
    "turned": torch.randn(3, 2).T,
}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == one.dtype and found[name].equal(one) for name, one in TENSORS.items()
    )


def test_bytes_are_safetensors() -> None:
    assert same(load(b"".join(tensor_pieces(TENSORS))))


@pytest.mark.parametrize("is_local", [True, False])
def test_tensors_come_back_from_a_store(tmp_path: Path, is_local: bool) -> None:
    blobs = LocalBlobs(tmp_path) if is_local else MemoryBlobs()
    blobs.put("a/b.safetensors", tensor_pieces(TENSORS))
    assert same(read_tensors(blobs, "a/b.safetensors"))


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(BlobNotFound):
        read_tensors(MemoryBlobs(), "a")


def test_a_file_that_is_none_is_told() -> None:
    blobs = MemoryBlobs()
    blobs.put("a", [b"not tensors at all"])
    with pytest.raises(CheckpointInvalid):
        read_tensors(blobs, "a")
