"""Whole checkpoints with a UNet so small that a test can merge a few of them."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.nano.pair import expert_path

__all__ = ["make_expert", "small_unet", "stored", "write_shards"]

_WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_unet(width: int = 32, *, cross_attention_dim: int = 128) -> UNet2DConditionModel:
    """Return a UNet of SDXL's kind of two levels."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(width, width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 2),
        cross_attention_dim=cross_attention_dim,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 64,
    )


def make_expert(
    folder: Path,
    *,
    seed: int = 0,
    tuned_from: Path | None = None,
    dtype: torch.dtype = torch.float32,
    width: int = 32,
    **scheduler: object,
) -> Path:
    """Write a checkpoint: the nano model's parts around a small UNet of random weights.

    Args:
        folder: Where.
        seed: Of the weights.
        tuned_from: A checkpoint whose UNet differs from this one's by a little only.
        dtype: Of the stored weights.
        width: Channels of the UNet.
        scheduler: Settings to change in the scheduler's configuration.
    """
    shutil.copytree(expert_path("base"), folder, ignore=shutil.ignore_patterns("unet"))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | scheduler))
    unet = small_unet(width)
    unet.save_config(folder / "unet")
    base = {} if tuned_from is None else stored(tuned_from)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in unet.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator) * 0.1
        tensors[name] = (base[name].float() + 0.1 * drawn if base else drawn).to(dtype)
    save_file(tensors, folder / "unet" / _WEIGHTS)
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's UNet tensors."""

    return load_file(folder / "unet" / _WEIGHTS)


def write_shards(folder: Path) -> None:
    """Spread a checkpoint's UNet over two files."""
    tensors = stored(folder)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, of_file in halves.items():
        save_file({name: tensors[name] for name in of_file}, folder / "unet" / file)
    weight_map = {name: file for file, of_file in halves.items() for name in of_file}
    (folder / "unet" / _WEIGHTS).unlink()
    index = folder / "unet" / f"{_WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
