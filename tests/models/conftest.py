"""The nano pair as this package and as diffusers load it, and SDXL's original layout.

The functions that write the original layout are the inverse of what is under test.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.models.experts import Expert, Experts, load_experts
from diptych.models.folder import open_folder
from diptych.models.parts import Checkpoint

State = dict[str, Tensor]

UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
UNET_RESNET = {
    ".norm1.": ".in_layers.0.",
    ".conv1.": ".in_layers.2.",
    ".norm2.": ".out_layers.0.",
    ".conv2.": ".out_layers.3.",
    ".time_emb_proj.": ".emb_layers.1.",
    ".conv_shortcut.": ".skip_connection.",
}
VAE_NAMES = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.group_norm.": "mid.attn_1.norm.",
    "mid_block.attentions.0.to_q.": "mid.attn_1.q.",
    "mid_block.attentions.0.to_k.": "mid.attn_1.k.",
    "mid_block.attentions.0.to_v.": "mid.attn_1.v.",
    "mid_block.attentions.0.to_out.0.": "mid.attn_1.proj_out.",
    "conv_norm_out.": "norm_out.",
    ".conv_shortcut.": ".nin_shortcut.",
}
OPEN_CLIP_NAMES = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.": ".attn.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}


@pytest.fixture(scope="session")
def experts(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """Return the nano pair, float32 on the CPU."""
    cache_dir = tmp_path_factory.mktemp("models")
    return load_experts(str(nano_pair / "base"), str(nano_pair / "refiner"), cache_dir=cache_dir)


@pytest.fixture(scope="session")
def base(experts: Experts) -> Expert:
    """Return the nano pair's base expert."""
    assert experts.base is not None
    return experts.base


@pytest.fixture(scope="session")
def pipeline(nano_pair: Path) -> StableDiffusionXLPipeline:
    """Return diffusers' own pipeline of the base expert, float32."""
    pipe = StableDiffusionXLPipeline.from_pretrained(nano_pair / "base", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def img2img(nano_pair: Path) -> StableDiffusionXLImg2ImgPipeline:
    """Return diffusers' own pipeline of the refiner, float32."""
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        nano_pair / "refiner", dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def checkpoint(nano_pair: Path) -> Checkpoint:
    """Return the nano base's checkpoint, opened but not loaded."""
    return open_folder(nano_pair / "base", "nano")


@pytest.fixture
def base_folder(nano_pair: Path, tmp_path: Path) -> Path:
    """Return a folder like the nano base whose files a test may replace or remove."""
    return _link(nano_pair / "base", tmp_path / "base")


@pytest.fixture
def refiner_folder(nano_pair: Path, tmp_path: Path) -> Path:
    """Return a folder like the nano refiner whose files a test may replace or remove."""
    return _link(nano_pair / "refiner", tmp_path / "refiner")


def _link(source: Path, target: Path) -> Path:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return target


@pytest.fixture(scope="session")
def to_original() -> Callable[..., State]:
    """Return a function from modules to their tensors in SDXL's original layout."""

    def convert(*modules: nn.Module) -> State:
        is_refiner = not any(isinstance(module, CLIPTextModel) for module in modules)
        tensors: State = {}
        for module in modules:
            state = module.state_dict()
            if isinstance(module, UNet2DConditionModel):
                tensors |= unet_to_original(state, int(module.config["layers_per_block"]))
            elif isinstance(module, AutoencoderKL):
                tensors |= vae_to_original(state, len(module.config["block_out_channels"]))
            elif isinstance(module, CLIPTextModelWithProjection):
                tensors |= open_clip_to_original(state, 0 if is_refiner else 1)
            else:
                tensors |= clip_to_original(state)
        return tensors

    return convert


@pytest.fixture(scope="session")
def original_modules() -> Iterator[dict[str, Any]]:
    """Yield a tiny model built like SDXL's base, with weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(11)
        text: dict[str, Any] = {
            "vocab_size": 700,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "eos_token_id": 2,
        }
        yield {
            "unet": UNet2DConditionModel(
                block_out_channels=(64, 128),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(1, 2),
                cross_attention_dim=128,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=6 * 256 + 64,
            ).eval(),
            "vae": AutoencoderKL(
                block_out_channels=(32, 32, 32, 32),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=1,
                scaling_factor=0.13025,
            ).eval(),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text, hidden_act="quick_gelu")),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(**text, hidden_act="gelu", projection_dim=64)
            ),
        }


@pytest.fixture(scope="session")
def original_file(
    original_modules: dict[str, Any],
    to_original: Callable[..., State],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the model as one file."""
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(to_original(*original_modules.values()), path)
    return path


def renamed(name: str, pairs: dict[str, str]) -> str:
    for old, new in pairs.items():
        name = name.replace(old, new)
    return name


def unet_to_original(state: State, num_layers: int) -> State:
    """Return the UNet's tensors under ``model.diffusion_model.``."""
    stride = num_layers + 1
    with_attention = {
        match[1] for name in state if (match := re.match(r"(up_blocks\.\d+)\.att", name))
    }

    def original(name: str) -> str:
        match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
        if match is None:
            ends = {old: new for old, new in UNET_ENDS.items() if name.startswith(old)}
            inner = UNET_RESNET if name.startswith("mid_block.resnets") else {}
            return renamed(renamed(name, ends), inner)
        side, level, kind, index, rest = match.groups()
        start, number = int(level) * stride, int(index)
        if kind == "downsamplers":
            return f"input_blocks.{start + stride}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            place = 2 if f"up_blocks.{level}" in with_attention else 1
            return f"output_blocks.{start + num_layers}.{place}.{rest}"
        block = (
            f"input_blocks.{start + number + 1}"
            if side == "down"
            else f"output_blocks.{start + number}"
        )
        if kind == "attentions":
            return f"{block}.1.{rest}"
        return renamed(f"{block}.0.{rest}", UNET_RESNET)

    return {f"model.diffusion_model.{original(name)}": tensor for name, tensor in state.items()}


def vae_to_original(state: State, num_levels: int) -> State:
    """Return the autoencoder's tensors under ``first_stage_model.``."""

    def original(name: str) -> str:
        name = re.sub(
            r"up_blocks\.(\d+)", lambda match: f"up.{num_levels - 1 - int(match[1])}", name
        )
        name = name.replace("down_blocks.", "down.").replace(".resnets.", ".block.", 1)
        name = name.replace("mid_block.block.", "mid_block.resnets.")
        name = re.sub(r"(down|up)samplers\.0\.", r"\1sample.", name)
        return renamed(name, VAE_NAMES)

    def shaped(name: str, tensor: Tensor) -> Tensor:
        is_attention = "mid.attn_1" in name and tensor.ndim == 2
        return tensor[:, :, None, None].contiguous() if is_attention else tensor

    names = {name: original(name) for name in state}
    return {
        f"first_stage_model.{names[name]}": shaped(names[name], tensor)
        for name, tensor in state.items()
    }


def clip_to_original(state: State) -> State:
    """Return OpenAI's encoder under ``conditioner.embedders.0.``, named as early releases did."""
    prefix = "conditioner.embedders.0.transformer.text_model."
    return {f"{prefix}{name.removeprefix('text_model.')}": t for name, t in state.items()}


def open_clip_to_original(state: State, embedder: int) -> State:
    """Return OpenCLIP's encoder under ``conditioner.embedders.<embedder>.model.``."""
    result: State = {}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        elif match := re.match(r"(.*)\.q_proj\.(weight|bias)", name):
            joined = [state[f"{match[1]}.{kind}_proj.{match[2]}"] for kind in "qkv"]
            key = renamed(f"{match[1]}.", OPEN_CLIP_NAMES)
            result[f"{key}in_proj_{match[2]}"] = torch.cat(joined)
        elif not re.search(r"\.[kv]_proj\.", name):
            result[renamed(name, OPEN_CLIP_NAMES)] = tensor
    result["logit_scale"] = torch.zeros(())
    return {f"conditioner.embedders.{embedder}.model.{key}": t for key, t in result.items()}
