"""A pair is loaded once where it can be shared, and only where it belongs together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from diptych.errors import CheckpointInvalid, ExpertsMismatch, SettingInvalid
from diptych.models.experts import (
    Expert,
    Experts,
    LoadOptions,
    load_experts,
    load_to_train,
    open_expert,
)
from diptych.models.text_encoders import PromptRow


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(value))


def edit_scheduler(folder: Path, **changes: Any) -> None:
    edit_json(folder / "scheduler/scheduler_config.json", **changes)


def edit_vae(folder: Path, **changes: Any) -> None:
    edit_json(folder / "vae/config.json", **changes)


def test_nano_pair_shares_encoders_and_autoencoder(experts: Experts) -> None:
    assert experts.base is not None
    assert experts.refiner is not None
    assert experts.base.text is experts.refiner.text
    assert experts.base.vae is experts.refiner.vae
    assert experts.base.unet is not experts.refiner.unet


def test_shares_the_second_encoder_with_a_refiner_that_lacks_the_first(
    base_folder: Path, refiner_folder: Path, tmp_path: Path
) -> None:
    unet = load_file(refiner_folder / "unet/diffusion_pytorch_model.safetensors")
    narrow = {
        name: tensor[:, :64].contiguous()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        else tensor
        for name, tensor in unet.items()
    }
    (refiner_folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    save_file(narrow, refiner_folder / "unet/diffusion_pytorch_model.safetensors")
    edit_json(refiner_folder / "unet/config.json", cross_attention_dim=64)
    edit_json(
        refiner_folder / "model_index.json", text_encoder=[None, None], tokenizer=[None, None]
    )
    loaded = load_experts(str(base_folder), str(refiner_folder), cache_dir=tmp_path)
    assert loaded.base is not None
    assert loaded.refiner is not None
    assert loaded.refiner.text.encoders == loaded.base.text.encoders[1:]
    assert loaded.refiner.family.name == "custom"


def test_either_expert_may_be_hosted_alone(nano_pair: Path, tmp_path: Path) -> None:
    alone = load_experts(None, str(nano_pair / "refiner"), cache_dir=tmp_path)
    assert alone.base is None
    assert [expert.name for expert in alone.hosted] == ["refiner"]


def test_refuses_to_host_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="neither base nor refiner"):
        load_experts(None, None, cache_dir=tmp_path)


def test_expert_says_what_it_is(base: Expert, nano_pair: Path) -> None:
    assert (base.name, base.source, base.family.name) == ("base", str(nano_pair / "base"), "nano")
    assert base.fingerprint.startswith("sha256:")
    assert base.schedule.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("prediction_type", {"prediction_type": "epsilon"}),
        ("rescale_betas_zero_snr", {"rescale_betas_zero_snr": False}),
        ("beta_start", {"beta_start": 0.001}),
        ("beta_schedule", {"beta_schedule": "linear"}),
        ("num_train_timesteps", {"num_train_timesteps": 500}),
        ("edm", {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}),
    ],
)
def test_refuses_a_pair_on_different_schedules(
    nano_pair: Path, refiner_folder: Path, tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    edit_scheduler(refiner_folder, **change)
    with pytest.raises(ExpertsMismatch) as raised:
        load_experts(str(nano_pair / "base"), str(refiner_folder), cache_dir=tmp_path)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scaling_factor", {"scaling_factor": 0.5}),
        ("latents_mean", {"latents_mean": [0.0, 1.0, 0.0, 0.0]}),
    ],
)
def test_refuses_a_pair_with_different_latents(
    nano_pair: Path, refiner_folder: Path, tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    edit_vae(refiner_folder, **change)
    with pytest.raises(ExpertsMismatch) as raised:
        load_experts(str(nano_pair / "base"), str(refiner_folder), cache_dir=tmp_path)
    assert raised.value.field == field


def test_refuses_a_family_the_checkpoint_was_not_built_as(nano_pair: Path, tmp_path: Path) -> None:
    options = LoadOptions(base_family="sdxl-base")
    with pytest.raises(CheckpointInvalid, match="is not of family sdxl-base"):
        load_experts(str(nano_pair / "base"), None, cache_dir=tmp_path, options=options)


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("model_index.json", {"requires_aesthetics_score": True}, "with 6 time ids"),
        ("vae/config.json", {"latent_channels": 8}, "UNet has 4 latent channels, VAE 8"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatch"}, "FlowMatch"),
    ],
)
def test_refuses_parts_that_contradict_each_other(
    base_folder: Path, tmp_path: Path, file: str, change: dict[str, Any], problem: str
) -> None:
    edit_json(base_folder / file, **change)
    with pytest.raises(CheckpointInvalid, match=problem):
        load_experts(str(base_folder), None, cache_dir=tmp_path)


def test_half_precision_covers_every_part(nano_pair: Path, tmp_path: Path) -> None:
    source = str(nano_pair / "base")
    base = load_experts(source, None, dtype=torch.bfloat16, cache_dir=tmp_path).base
    assert base is not None
    kinds = {base.unet.dtype, base.vae.dtype, *(encoder.dtype for encoder in base.text.encoders)}
    assert kinds == {torch.bfloat16}


@torch.inference_mode()
def test_one_guided_prediction_equals_diffusers_from_the_words_on(
    experts: Experts,
    pipeline: StableDiffusionXLPipeline,
    img2img: StableDiffusionXLImg2ImgPipeline,
) -> None:
    prompt, size = "a red circle in the top left", (128, 128)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for expert, pipe in zip(experts.hosted, (pipeline, img2img), strict=True):
        hidden, negative, pooled, negative_pooled = pipe.encode_prompt(prompt)
        ids = pipe._get_add_time_ids(
            size,
            (0, 0),
            size,
            *([6.0, 2.5, size, (0, 0), size] if expert.name == "refiner" else []),
            dtype=torch.float32,
            text_encoder_projection_dim=64,
        )
        ids = ids[0] if isinstance(ids, tuple) else ids
        conditions = {
            "text_embeds": torch.cat([negative_pooled, pooled]),
            "time_ids": ids.repeat(2, 1),
        }
        expected = pipe.unet(
            x, 500, torch.cat([negative, hidden]), added_cond_kwargs=conditions
        ).sample
        embeds = expert.text.encode([PromptRow(text=None), PromptRow(text=prompt)])
        told = expert.family.time_ids(
            original_size=size, crop_top_left=(0, 0), target_size=size, aesthetic_score=6.0
        )
        found = expert.unet.predict(
            x,
            torch.full((2,), 500.0),
            hidden=torch.cat([embed.hidden for embed in embeds]),
            pooled=torch.cat([embed.pooled for embed in embeds]),
            time_ids=torch.tensor([told, told]),
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_is_to_be_trained_is_its_own_and_of_the_dtypes_asked_for(
    base: Expert, nano_pair: Path, tmp_path: Path
) -> None:
    opened = open_expert(str(nano_pair / "base"), cache_dir=tmp_path)
    assert (opened.family, opened.schedule) == (base.family, base.schedule)
    device, half = torch.device("cpu"), torch.bfloat16
    unet, none = load_to_train(opened, device=device, unet_dtype=half)
    assert none is None
    assert (unet.dtype, unet.fingerprint) == (half, base.fingerprint)
    _, text = load_to_train(opened, device=device, unet_dtype=half, text_dtype=torch.float32)
    assert text is not None
    assert (text.dtype, text.fingerprint) == (torch.float32, base.text.fingerprint)
