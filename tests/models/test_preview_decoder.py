"""Previews by TAESD are what diffusers decodes, and only a fitting, safe one is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor

from diptych.errors import CheckpointInvalid, ModelNotFound, PickleRefused
from diptych.models.checkpoint import SourceConfig
from diptych.models.preview_decoder import PreviewDecoder, load_preview_decoder


def latents(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    """Return a small one of eight pixels per latent, with weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        ).eval()


@pytest.fixture
def folder(tiny: AutoencoderTiny, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


def load(source: Path | str, tmp_path: Path, *, latent_channels: int = 4) -> PreviewDecoder:
    return load_preview_decoder(
        str(source),
        SourceConfig(cache_dir=tmp_path / "cache"),
        latent_channels=latent_channels,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def test_decodes_the_pixels_diffusers_decodes(
    tiny: AutoencoderTiny, folder: Path, tmp_path: Path
) -> None:
    with torch.inference_mode():
        decoded = tiny.decode(latents()).sample
    expected = VaeImageProcessor().postprocess(decoded, output_type="pt")
    found = load(folder, tmp_path).decode_pixels(latents())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_preview_has_the_pictures_size(folder: Path, tmp_path: Path) -> None:
    decoder = load(folder, tmp_path)
    expected = decoder.decode_pixels(latents(16, 24)).permute(0, 2, 3, 1) * 255
    found = decoder.preview(latents(16, 24))
    assert found.shape == (2, 128, 192, 3)
    assert np.array_equal(found, expected.round().numpy())


def test_a_large_picture_is_shrunk(folder: Path, tmp_path: Path) -> None:
    assert load(folder, tmp_path).preview(latents(72, 40)).shape == (2, 288, 160, 3)


def test_refuses_other_latents_than_the_experts_have(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="decodes 4 latent channels, the experts have 16"):
        load(folder, tmp_path, latent_channels=16)


def test_refuses_another_model(nano_pair: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="'AutoencoderKL', expected AutoencoderTiny"):
        load(nano_pair / "base" / "vae", tmp_path)


def test_refuses_a_pickle(folder: Path, tmp_path: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(PickleRefused, match=r"diffusion_pytorch_model\.bin"):
        load(folder, tmp_path)


def test_refuses_a_truncated_file(folder: Path, tmp_path: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointInvalid):
        load(folder, tmp_path)


def test_names_a_missing_configuration(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointInvalid, match=r"misses config\.json of a preview decoder"):
        load(folder, tmp_path)


def test_refuses_a_single_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="is a file, expected a folder"):
        load(folder / "diffusion_pytorch_model.safetensors", tmp_path)


def test_names_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load(tmp_path / "absent", tmp_path)
