"""Tensors come one by one, by the names the module has."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diptych.errors import CheckpointInvalid
from diptych.models.folder import open_part
from diptych.models.parts import Part
from diptych.models.single_file import open_single_file
from diptych.models.tensor_stream import read_one, stored_by_name


def open_unet(folder: Path, **tensors: torch.Tensor) -> Part:
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text("{}")
    return open_part(folder, "here", name="unet")


def test_a_tensor_is_read_as_stored(tmp_path: Path) -> None:
    weight = torch.arange(6).view(2, 3).half()
    part = open_unet(tmp_path, weight=weight)
    assert torch.equal(read_one(part, stored_by_name(part)["weight"]), weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float, tmp_path: Path) -> None:
    part = open_unet(tmp_path, weight=torch.tensor([0.0, bad]))
    with pytest.raises(CheckpointInvalid, match="weight holds NaN or infinity"):
        read_one(part, part.tensors["weight"])


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    part = open_unet(tmp_path, weight=torch.zeros(2, 3))
    open_unet(tmp_path, weight=torch.zeros(3, 2))
    with pytest.raises(CheckpointInvalid, match="changed while it was read"):
        read_one(part, part.tensors["weight"])


def test_a_single_file_has_the_modules_names(original_file: Path, original_modules: object) -> None:
    checkpoint = open_single_file(original_file, "file", tokenizer_dir=lambda: original_file)
    part = checkpoint.parts["unet"]
    assert isinstance(original_modules, dict)
    expected = original_modules["unet"].state_dict()
    found = {name: read_one(part, one) for name, one in stored_by_name(part).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_layout_that_splits_tensors_is_refused(original_file: Path) -> None:
    checkpoint = open_single_file(original_file, "file", tokenizer_dir=lambda: original_file)
    with pytest.raises(CheckpointInvalid, match="cannot be read tensor by tensor"):
        stored_by_name(checkpoint.parts["text_encoder_2"])
