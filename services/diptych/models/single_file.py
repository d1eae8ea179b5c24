"""One ``.safetensors`` file in SDXL's original layout, as training scripts and UIs share them.

The file holds ``model.diffusion_model.``, ``conditioner.embedders.`` and ``first_stage_model.``
and no configuration; what was built is read off the names and shapes in its header. Names are
converted by diffusers' own functions, so nothing is fetched for the conversion.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.models.header import Header, read_header
from diptych.models.original_layout import (
    Shapes,
    clip_config,
    open_clip_config,
    unet_config,
    vae_config,
)
from diptych.models.parts import Checkpoint, Part, StoredTensor, TokenizerFiles

__all__ = ["CLIP_REPOSITORY", "CLIP_REVISION", "open_single_file"]

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
CLIP_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
"""Whose tokenizer every SDXL text encoder was trained with."""

_Convert = Callable[[Mapping[str, object], dict[str, Tensor]], dict[str, Tensor]]
_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_CLIP = "conditioner.embedders.0.transformer."
_OPEN_CLIP_OF_BASE = "conditioner.embedders.1.model."
_OPEN_CLIP_OF_REFINER = "conditioner.embedders.0.model."
_FEW_STEP_NAMES = ("turbo", "lightning")
_DISCRETE_SCHEDULE: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
_EDM_SCHEDULE: Mapping[str, object] = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "rho": 7.0,
    "solver_order": 2,
}


def open_single_file(path: Path, source: str, *, tokenizer_dir: Callable[[], Path]) -> Checkpoint:
    """Return the checkpoint in one file; ``tokenizer_dir`` is asked only when the file is good.

    Raises:
        CheckpointInvalid: a corrupt header, or not the layout of an SDXL base or refiner.
    """
    header = read_header(path)
    is_refiner = any(key.startswith(_OPEN_CLIP_OF_REFINER) for key in header.tensors)
    open_clip = _OPEN_CLIP_OF_REFINER if is_refiner else _OPEN_CLIP_OF_BASE
    needed = [_UNET, _VAE, open_clip, *([] if is_refiner else [_CLIP])]
    missing = [key for key in needed if not any(name.startswith(key) for name in header.tensors)]
    if missing:
        raise CheckpointInvalid(source, f"has no tensors under {', '.join(missing)}")
    parts = {
        "unet": _part(header, source, "unet", _UNET, unet_config, _convert_unet),
        "vae": _part(header, source, "vae", _VAE, vae_config, _convert_vae),
        "text_encoder_2": _part(
            header, source, "text_encoder_2", open_clip, open_clip_config, _convert_open_clip
        ),
    }
    if not is_refiner:
        parts["text_encoder"] = _part(header, source, "text_encoder", _CLIP, clip_config, None)
    folder = tokenizer_dir()
    files = {name: TokenizerFiles(folder=folder) for name in parts if name == "text_encoder"}
    files["text_encoder_2"] = TokenizerFiles(folder=folder, pad_token="!")  # noqa: S106 - a word
    return Checkpoint(
        source=source,
        pipeline={
            "force_zeros_for_empty_prompt": not is_refiner,
            "requires_aesthetics_score": is_refiner,
        },
        scheduler=_scheduler(header, source),
        parts=parts,
        tokenizers=files,
    )


def _part(
    header: Header,
    source: str,
    name: str,
    prefix: str,
    derive: Callable[[Shapes], dict[str, object]],
    convert: _Convert | None,
) -> Part:
    tensors = {
        key.removeprefix(prefix): StoredTensor(path=header.path, key=key, span=span)
        for key, span in header.tensors.items()
        if key.startswith(prefix)
    }
    try:
        config = derive({key: stored.span.shape for key, stored in tensors.items()})
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        problem = f"{prefix} is not SDXL's original layout: {error!r}"
        raise CheckpointInvalid(source, problem) from error
    if name == "vae":
        config |= _latent_statistics(header, source)
    bound = None if convert is None else partial(convert, config)
    return Part(source=source, name=name, config=config, tensors=tensors, convert=bound)


def _latent_statistics(header: Header, source: str) -> dict[str, object]:
    """Return Playground v2.5's mean and deviation of latents, which it stores as tensors."""
    if not {"edm_mean", "edm_std"} <= header.tensors.keys():
        return {}
    with safe_open(header.path, framework="pt") as file:
        mean, std = (file.get_tensor(key).flatten().tolist() for key in ("edm_mean", "edm_std"))
    if not mean or len(mean) != len(std):
        raise CheckpointInvalid(source, "edm_mean and edm_std have no common length")
    return {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}


def _scheduler(header: Header, source: str) -> dict[str, object]:
    if "edm_mean" in header.tensors:
        return dict(_EDM_SCHEDULE)
    if "edm_vpred.sigma_max" in header.tensors:
        problem = "is an EDM v-prediction file (CosXL); only its diffusers folder states its sigmas"
        raise CheckpointInvalid(source, problem)
    config = dict(_DISCRETE_SCHEDULE)
    if "v_pred" in header.tensors or header.metadata.get("modelspec.prediction_type") == "v":
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in header.tensors:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if any(word in Path(source).name.lower() for word in _FEW_STEP_NAMES):
        config["timestep_spacing"] = "trailing"
    return config


def _convert_unet(config: Mapping[str, object], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixed = {f"{_UNET}{key}": tensor for key, tensor in tensors.items()}
    converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(prefixed, dict(config))
    return converted


def _convert_vae(config: Mapping[str, object], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixed = {f"{_VAE}{key}": tensor for key, tensor in tensors.items()}
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(prefixed, dict(config))
    return converted


def _convert_open_clip(
    config: Mapping[str, object], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    converted: dict[str, Tensor] = convert_open_clip_checkpoint(model, tensors, prefix="")
    return converted
