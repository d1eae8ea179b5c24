"""Latents decode and pictures encode exactly as diffusers' pipelines do it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import nn

from diptych.errors import CheckpointInvalid
from diptych.models.autoencoder import Autoencoder, load_autoencoder, pixels_from_images
from diptych.models.experts import Expert
from diptych.models.parts import Checkpoint


def random_latents(count: int = 3, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)


def loaded(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, **config: object
) -> Autoencoder:
    part = checkpoint.parts["vae"]
    part = replace(part, config={**part.config, **config})
    return load_autoencoder(part, device=torch.device("cpu"), dtype=dtype, fingerprint="test")


def test_decodes_the_pictures_diffusers_decodes(
    base: Expert, pipeline: StableDiffusionXLPipeline
) -> None:
    latents = random_latents()
    with torch.inference_mode():
        raw = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    images = pipeline.image_processor.postprocess(raw, output_type="pil")
    expected = np.stack([np.asarray(image) for image in images]).astype(int)
    apart = np.abs(base.vae.decode(latents) - expected)
    # Another number of threads is another order of sums, which a rounding edge can show.
    assert apart.max() <= 1
    assert (apart == 0).mean() >= 0.999


def test_encodes_the_latents_diffusers_encodes(
    base: Expert, img2img: StableDiffusionXLImg2ImgPipeline
) -> None:
    image = picture()
    pixels = img2img.image_processor.preprocess(Image.fromarray(image[0]))
    with torch.inference_mode():
        expected = img2img.prepare_latents(
            pixels,
            None,
            1,
            1,
            torch.float32,
            "cpu",
            [torch.Generator().manual_seed(5)],
            add_noise=False,
        )
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    found = base.vae.encode(pixels_from_images(image), noise)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_pixels_of_a_picture_are_those_of_diffusers(
    img2img: StableDiffusionXLImg2ImgPipeline,
) -> None:
    image = picture()
    expected = img2img.image_processor.preprocess(Image.fromarray(image[0]))
    assert torch.equal(pixels_from_images(image), expected)


def test_latent_statistics_are_applied_both_ways(checkpoint: Checkpoint) -> None:
    statistics: dict[str, Any] = {
        "latents_mean": [0.5, -1.0, 0.0, 2.0],
        "latents_std": [2.0, 1.0, 0.5, 3.0],
    }
    plain, normal = loaded(checkpoint), loaded(checkpoint, **statistics)
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in statistics.values())
    pixels, noise = pixels_from_images(picture()), torch.zeros(1, 4, 16, 16)
    raw = plain.encode(pixels, noise) / plain.scaling_factor
    latents = normal.encode(pixels, noise)
    torch.testing.assert_close(latents, (raw - mean) * plain.scaling_factor / std)
    again = plain.decode_pixels(raw * plain.scaling_factor)
    torch.testing.assert_close(normal.decode_pixels(latents), again, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("force_upcast", "kept"), [(True, torch.float32), (False, torch.float16)])
def test_half_precision_is_kept_only_where_it_does_not_overflow(
    checkpoint: Checkpoint, force_upcast: bool, kept: torch.dtype
) -> None:
    assert loaded(checkpoint, torch.float16, force_upcast=force_upcast).dtype == kept


def test_bfloat16_decodes_to_nearly_the_same_picture(base: Expert, checkpoint: Checkpoint) -> None:
    latents = random_latents(1)
    found = loaded(checkpoint, torch.bfloat16).decode(latents).astype(int)
    assert np.abs(found - base.vae.decode(latents)).mean() < 3


def test_posterior_is_diffusers_own(base: Expert, pipeline: StableDiffusionXLPipeline) -> None:
    pixels = pixels_from_images(picture())
    with torch.inference_mode():
        expected = pipeline.vae.encode(pixels).latent_dist
    mean, std = base.vae.posterior(pixels)
    torch.testing.assert_close(mean, expected.mean, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(std, expected.std, atol=1e-6, rtol=1e-4)


def test_posterior_of_a_picture_does_not_depend_on_its_neighbours(base: Expert) -> None:
    pixels = pixels_from_images(np.concatenate([picture(seed) for seed in range(3)]))
    together = base.vae.posterior(pixels)
    alone = base.vae.posterior(pixels[1:2])
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one[1:2], other)


def test_a_draw_of_the_posterior_is_what_encodes_a_picture(base: Expert) -> None:
    pixels, noise = pixels_from_images(picture()), random_latents(1)
    mean, std = base.vae.posterior(pixels)
    assert torch.equal(base.vae.draw(mean, std, noise), base.vae.encode(pixels, noise))


class LinearCodec(nn.Module):
    """Stands for a perfectly linear autoencoder: its latents are mixed colours and a constant."""

    config = SimpleNamespace(
        latent_channels=4,
        scaling_factor=0.5,
        block_out_channels=(1, 1, 1, 1),
        latents_mean=None,
        latents_std=None,
    )

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.mixing = nn.Parameter(torch.randn(4, 3, generator=generator))

    def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
        shrunk = nn.functional.avg_pool2d(pixels, 8)
        mean = torch.einsum("lc,nchw->nlhw", self.mixing, shrunk) + 0.25
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))


def test_preview_of_a_linear_autoencoder_is_the_shrunk_picture() -> None:
    vae = Autoencoder(LinearCodec(), fingerprint="test")
    image = np.repeat(np.repeat(picture()[:, :16, :16], 8, axis=1), 8, axis=2)
    latents = vae.encode(pixels_from_images(image), torch.zeros(1, 4, 16, 16))
    difference = vae.preview(latents).astype(int) - image[:, ::8, ::8]
    assert np.abs(difference).max() <= 1


def test_preview_has_one_pixel_per_latent(base: Expert) -> None:
    assert base.vae.preview(random_latents(2)).shape == (2, 16, 16, 3)


def test_preview_projection_is_fitted_once(base: Expert) -> None:
    assert base.vae.preview_projection() is base.vae.preview_projection()


@pytest.mark.parametrize("factor", [None, "0.13", 0, float("nan"), float("inf"), True])
def test_refuses_a_scaling_that_is_no_number(checkpoint: Checkpoint, factor: object) -> None:
    with pytest.raises(CheckpointInvalid, match="scaling_factor"):
        loaded(checkpoint, scaling_factor=factor)


def test_refuses_statistics_of_another_number_of_channels(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointInvalid, match="latents_mean"):
        loaded(checkpoint, latents_mean=[0.0, 1.0])


def test_refuses_another_kind_of_autoencoder(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointInvalid, match="expected AutoencoderKL"):
        loaded(checkpoint, _class_name="AutoencoderTiny")
