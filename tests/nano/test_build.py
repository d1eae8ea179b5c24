"""A build of two steps leaves three folders that stock diffusers loads."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from diptych.nano.build import BuildConfig, build


def tiny(out: Path) -> BuildConfig:
    return BuildConfig(
        out=out,
        num_scenes=16,
        vae_steps=2,
        vae_batch=2,
        unet_steps=2,
        base_steps=2,
        refiner_steps=2,
        unet_batch=2,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nano")
    build(tiny(out))
    return out


@pytest.mark.parametrize("name", ["base", "base-single"])
def test_diffusers_loads_a_full_picture_expert(built: Path, name: str) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(built / name, add_watermarker=False)
    assert pipeline.unet.config.addition_embed_type == "text_time"


def test_diffusers_loads_the_refiner(built: Path) -> None:
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        built / "refiner", add_watermarker=False
    )
    assert pipeline.config.requires_aesthetics_score is False


def test_weights_are_half_precision(built: Path) -> None:
    files = built.glob("base/*/*.safetensors")
    kinds = {tensor.dtype for file in files for tensor in load_file(file).values()}
    assert torch.float32 not in kinds


def test_experts_keep_the_text_encoders_of_the_single_model(built: Path) -> None:
    part = "text_encoder/model.safetensors"
    assert (built / "base" / part).read_bytes() == (built / "base-single" / part).read_bytes()


def test_experts_differ_from_each_other(built: Path) -> None:
    part = "unet/diffusion_pytorch_model.safetensors"
    assert (built / "base" / part).read_bytes() != (built / "refiner" / part).read_bytes()


def test_a_second_build_trains_nothing_again_and_leaves_the_global_generator_alone(
    built: Path,
) -> None:
    weights = built / "work" / "single.safetensors"
    before = weights.stat().st_mtime_ns, torch.get_rng_state().tolist()
    build(tiny(built))
    assert (weights.stat().st_mtime_ns, torch.get_rng_state().tolist()) == before
