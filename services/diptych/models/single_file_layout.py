"""What one ``.safetensors`` file in SDXL's original layout holds, by its header alone. No torch.

The file holds ``model.diffusion_model.``, ``conditioner.embedders.`` and ``first_stage_model.``
and no configuration; what was built is read off the names and shapes in its header.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from diptych.errors import CheckpointInvalid
from diptych.models.header import Header
from diptych.models.original_layout import (
    Shapes,
    clip_config,
    open_clip_config,
    unet_config,
    vae_config,
)
from diptych.models.parts import Checkpoint, Part, StoredTensor

__all__ = ["UNET", "VAE", "read_layout"]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
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


def read_layout(header: Header, source: str) -> Checkpoint:
    """Return the checkpoint whose file has ``header``, its parts in the original layout's names.

    It has no tokenizers, since the file holds none.

    Raises:
        CheckpointInvalid: Not the layout of an SDXL base or refiner.
    """
    is_refiner = any(key.startswith(_OPEN_CLIP_OF_REFINER) for key in header.tensors)
    open_clip = _OPEN_CLIP_OF_REFINER if is_refiner else _OPEN_CLIP_OF_BASE
    needed = [UNET, VAE, open_clip, *([] if is_refiner else [_CLIP])]
    missing = [key for key in needed if not any(name.startswith(key) for name in header.tensors)]
    if missing:
        raise CheckpointInvalid(source, f"has no tensors under {', '.join(missing)}")
    parts = {
        "unet": _part(header, source, "unet", UNET, unet_config),
        "vae": _part(header, source, "vae", VAE, vae_config),
        "text_encoder_2": _part(header, source, "text_encoder_2", open_clip, open_clip_config),
    }
    if not is_refiner:
        parts["text_encoder"] = _part(header, source, "text_encoder", _CLIP, clip_config)
    return Checkpoint(
        source=source,
        pipeline={
            "force_zeros_for_empty_prompt": not is_refiner,
            "requires_aesthetics_score": is_refiner,
        },
        scheduler=_scheduler(header, source),
        parts=parts,
        tokenizers={},
    )


def _part(
    header: Header,
    source: str,
    name: str,
    prefix: str,
    derive: Callable[[Shapes], dict[str, object]],
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
    return Part(source=source, name=name, config=config, tensors=tensors)


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
