"""One ``.safetensors`` file in SDXL's original layout, as training scripts and UIs share them.

Names are converted by diffusers' own functions, so nothing is fetched for the conversion.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from diptych.models.parts import Checkpoint, Part, TokenizerFiles
from diptych.models.single_file_layout import UNET, VAE, read_layout

__all__ = ["CLIP_REPOSITORY", "CLIP_REVISION", "open_single_file"]

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
CLIP_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
"""Whose tokenizer every SDXL text encoder was trained with."""

_Convert = Callable[[Mapping[str, object], dict[str, Tensor]], dict[str, Tensor]]


def open_single_file(path: Path, source: str, *, tokenizer_dir: Callable[[], Path]) -> Checkpoint:
    """Return the checkpoint in one file; ``tokenizer_dir`` is asked only when the file is good.

    Raises:
        CheckpointInvalid: a corrupt header, or not the layout of an SDXL base or refiner.
    """
    header = read_header(path)
    laid_out = read_layout(header, source)
    parts = {name: _converting(part) for name, part in laid_out.parts.items()}
    config = parts["vae"].config
    statistics = _latent_statistics(header, source)
    parts["vae"] = replace(parts["vae"], config={**config, **statistics})
    folder = tokenizer_dir()
    files = {name: TokenizerFiles(folder=folder) for name in parts if name == "text_encoder"}
    files["text_encoder_2"] = TokenizerFiles(folder=folder, pad_token="!")  # noqa: S106 - a word
    return replace(laid_out, parts=parts, tokenizers=files)


def _converting(part: Part) -> Part:
    """Return a part that gives its tensors in the module's own names."""
    converts: Mapping[str, _Convert] = {
        "unet": _convert_unet,
        "vae": _convert_vae,
        "text_encoder_2": _convert_open_clip,
    }
    convert = converts.get(part.name)
    return part if convert is None else replace(part, convert=partial(convert, part.config))


def _latent_statistics(header: Header, source: str) -> dict[str, object]:
    """Return Playground v2.5's mean and deviation of latents, which it stores as tensors."""
    if not {"edm_mean", "edm_std"} <= header.tensors.keys():
        return {}
    with safe_open(header.path, framework="pt") as file:
        mean, std = (file.get_tensor(key).flatten().tolist() for key in ("edm_mean", "edm_std"))
    if not mean or len(mean) != len(std):
        raise CheckpointInvalid(source, "edm_mean and edm_std have no common length")
    return {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}


def _convert_unet(config: Mapping[str, object], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixed = {f"{UNET}{key}": tensor for key, tensor in tensors.items()}
    converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(prefixed, dict(config))
    return converted


def _convert_vae(config: Mapping[str, object], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixed = {f"{VAE}{key}": tensor for key, tensor in tensors.items()}
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(prefixed, dict(config))
    return converted


def _convert_open_clip(
    config: Mapping[str, object], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    converted: dict[str, Tensor] = convert_open_clip_checkpoint(model, tensors, prefix="")
    return converted
