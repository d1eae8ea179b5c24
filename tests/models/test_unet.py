"""The UNet predicts what diffusers' module predicts, and times stay exact in half precision."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from diptych.errors import CheckpointInvalid
from diptych.models.experts import Expert
from diptych.models.parts import Checkpoint
from diptych.models.unet import Unet, load_unet

CPU = torch.device("cpu")


def inputs(dtype: torch.dtype = torch.float32, *, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden": torch.randn(batch, 77, 128, generator=generator).to(dtype),
        "pooled": torch.randn(batch, 64, generator=generator).to(dtype),
        "time_ids": torch.tensor([[777.0, 301.0, 3.0, 5.0, 1333.0, 128.0]]).repeat(batch, 1),
    }


def latents(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
def test_predicts_what_diffusers_predicts(
    base: Expert, pipeline: StableDiffusionXLPipeline
) -> None:
    given, x, t = inputs(), latents(), torch.tensor([999.0, 37.0])
    conditions = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
    expected = pipeline.unet(x, t, given["hidden"], added_cond_kwargs=conditions).sample
    found = base.unet.predict(x, t, **given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_rows_with_unlike_timesteps_do_not_mix(base: Expert) -> None:
    given, x, t = inputs(), latents(), torch.tensor([999.0, 37.0])
    both = base.unet.predict(x, t, **given)
    alone = base.unet.predict(x[1:], t[1:], **{name: rows[1:] for name, rows in given.items()})
    assert torch.equal(both[1:], alone)


@pytest.fixture(scope="module")
def half(checkpoint: Checkpoint) -> Unet:
    part = checkpoint.parts["unet"]
    return load_unet(part, device=CPU, dtype=torch.bfloat16, fingerprint="test")


@torch.inference_mode()
def test_half_weights_still_tell_neighbouring_timesteps_apart(half: Unet) -> None:
    given, x = inputs(torch.bfloat16, batch=1), latents(1)
    later, sooner = (half.predict(x, torch.tensor([t]), **given) for t in (997.0, 998.0))
    assert not torch.equal(later, sooner)


@torch.inference_mode()
def test_half_weights_still_tell_neighbouring_sizes_apart(half: Unet) -> None:
    given, x, t = inputs(torch.bfloat16, batch=1), latents(1), torch.tensor([500.0])
    first = half.predict(x, t, **given)
    given["time_ids"] = given["time_ids"] + torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert not torch.equal(half.predict(x, t, **given), first)


@torch.inference_mode()
def test_prediction_has_the_precision_of_the_state(half: Unet) -> None:
    found = half.predict(latents(1), torch.tensor([5.0]), **inputs(torch.bfloat16, batch=1))
    assert found.dtype == torch.float32


def test_weights_are_frozen(base: Expert) -> None:
    assert not any(p.requires_grad for p in base.unet.module.parameters())
    assert not base.unet.module.training


def test_refuses_weights_that_do_not_fit_the_configuration(checkpoint: Checkpoint) -> None:
    part = checkpoint.parts["unet"]
    part = replace(part, config={**part.config, "block_out_channels": [48, 96, 192]})
    with pytest.raises(CheckpointInvalid, match=r"unet .* has shape \[.*\], expected \["):
        load_unet(part, device=CPU, dtype=torch.float32, fingerprint="test")


def test_refuses_another_kind_of_unet(checkpoint: Checkpoint) -> None:
    part = checkpoint.parts["unet"]
    part = replace(part, config={**part.config, "_class_name": "UNet2DModel"})
    with pytest.raises(CheckpointInvalid, match="expected UNet2DConditionModel"):
        load_unet(part, device=CPU, dtype=torch.float32, fingerprint="test")
