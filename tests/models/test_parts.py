"""A fingerprint is equal exactly where the computation is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.models.header import read_header
from diptych.models.parts import Checkpoint, Part, StoredTensor, fingerprint_part


def part_of(*paths: Path, config: dict[str, object] | None = None) -> Part:
    tensors = {
        key: StoredTensor(path=path, key=key, span=span)
        for path in paths
        for key, span in read_header(path).tensors.items()
    }
    return Part(source="here", name="vae", config=config or {}, tensors=tensors)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4)}, path)
    return path


def test_fingerprint_does_not_depend_on_how_tensors_are_spread(whole: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{key}.safetensors" for key in "ab"]
    for path in paths:
        save_file({path.stem: load_file(whole)[path.stem]}, path)
    assert fingerprint_part(part_of(*paths)) == fingerprint_part(part_of(whole))


def test_fingerprint_ignores_who_wrote_the_configuration(whole: Path) -> None:
    signed = part_of(whole, config={"x": 1, "_diffusers_version": "0.1", "_name_or_path": "y"})
    assert fingerprint_part(signed) == fingerprint_part(part_of(whole, config={"x": 1}))


def test_fingerprint_tells_settings_apart(whole: Path) -> None:
    one, other = (part_of(whole, config={"scaling_factor": x}) for x in (0.5, 0.6))
    assert fingerprint_part(one) != fingerprint_part(other)


@pytest.mark.parametrize(
    "changed",
    [
        torch.tensor([[0.0, 1, 2], [3, 4, 6]]),
        torch.arange(6.0).view(3, 2),
        torch.arange(6, dtype=torch.int32).view(2, 3),
    ],
)
def test_fingerprint_tells_tensors_apart(
    whole: Path, tmp_path: Path, changed: torch.Tensor
) -> None:
    other = tmp_path / "other.safetensors"
    save_file(load_file(whole) | {"a": changed}, other)
    assert fingerprint_part(part_of(other)) != fingerprint_part(part_of(whole))


def test_pair_shares_its_autoencoder_by_fingerprint(
    checkpoint: Checkpoint, refiner_folder: Path
) -> None:
    other = part_of(refiner_folder / "vae/diffusion_pytorch_model.safetensors")
    other = replace(other, config=checkpoint.parts["vae"].config)
    assert fingerprint_part(other) == fingerprint_part(checkpoint.parts["vae"])
