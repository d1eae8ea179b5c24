"""What is wrong with a checkpoint's header is said as a checkpoint's error, with its path."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diptych.errors import CheckpointInvalid, ModelNotFound
from diptych.models.header import parse_json, read_header


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2, 3)}, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: span.shape for name, span in header.tensors.items()} == {"a": (2, 3)}
    assert (header.path, header.metadata) == (path, {"format": "pt"})


def test_refuses_a_file_cut_within_its_data(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointInvalid, match=r"weights\.safetensors: is truncated"):
        read_header(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_header(tmp_path / "none.safetensors")


def test_a_folder_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        read_header(tmp_path)


def test_bytes_that_are_no_object_are_refused() -> None:
    with pytest.raises(CheckpointInvalid, match="checkpoint here: holds a JSON list"):
        parse_json("here", b"[1]")
