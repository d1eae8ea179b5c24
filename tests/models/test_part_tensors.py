"""Tensors come in the precision asked for, or are refused by name."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diptych.errors import CheckpointInvalid
from diptych.models.header import read_header
from diptych.models.part_tensors import read_tensors
from diptych.models.parts import Part, StoredTensor

CPU = torch.device("cpu")


def part_of(*paths: Path) -> Part:
    tensors = {
        key: StoredTensor(path=path, key=key, span=span)
        for path in paths
        for key, span in read_header(path).tensors.items()
    }
    return Part(source="here", name="vae", config={}, tensors=tensors)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4)}, path)
    return path


def test_reads_floating_tensors_in_the_precision_asked_for(whole: Path) -> None:
    tensors = read_tensors(part_of(whole), device=CPU, dtype=torch.float16)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "a": torch.float16,
        "b": torch.int64,
    }


def test_names_a_file_that_changed_after_it_was_opened(whole: Path) -> None:
    part = part_of(whole)
    whole.write_bytes(b"gone")
    with pytest.raises(CheckpointInvalid, match=r"whole\.safetensors"):
        read_tensors(part, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_names_a_tensor_that_is_not_finite(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    bad = torch.zeros(3, 5, dtype=dtype)
    bad[2, 4] = value
    save_file({"fine": torch.ones(2), "sick.weight": bad}, tmp_path / "a.safetensors")
    part = part_of(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointInvalid, match=r"vae sick\.weight holds values that are not"):
        read_tensors(part, device=CPU, dtype=torch.float32)


def test_names_a_tensor_that_the_precision_asked_for_cannot_hold(tmp_path: Path) -> None:
    save_file({"large": torch.tensor([1e6])}, tmp_path / "a.safetensors")
    part = part_of(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointInvalid, match=r"large .* not finite as torch\.float16"):
        read_tensors(part, device=CPU, dtype=torch.float16)


def test_counts_further_tensors_that_are_not_finite(tmp_path: Path) -> None:
    bad = {name: torch.tensor([math.nan]) for name in "abc"}
    save_file(bad, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointInvalid, match="so do 2 more tensors"):
        read_tensors(part_of(tmp_path / "a.safetensors"), device=CPU, dtype=torch.float32)


def test_reads_a_tensor_without_values(tmp_path: Path) -> None:
    save_file({"empty": torch.zeros(0, 3)}, tmp_path / "a.safetensors")
    found = read_tensors(part_of(tmp_path / "a.safetensors"), device=CPU, dtype=torch.float32)
    assert found["empty"].shape == (0, 3)
