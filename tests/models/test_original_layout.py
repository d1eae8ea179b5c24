"""What was built is read off names and shapes alone, for every family there is."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.models.family import detect_family
from diptych.models.original_layout import (
    Shapes,
    clip_config,
    open_clip_config,
    unet_config,
    vae_config,
)

BASE: dict[str, Any] = {
    "block_out_channels": (64, 128, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 128,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1600,
}
UNETS: dict[str, dict[str, Any]] = {
    "base": BASE,
    "vega": BASE | {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": (1, 1, 2)},
    "ssd-1b": BASE
    | {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, (2, 2), (4, 4)),
        "reverse_transformer_layers_per_block": ((4, 4, 5), (2, 1, 1), 1),
    },
    "refiner": BASE
    | {
        "block_out_channels": (64, 128, 256, 256),
        "attention_head_dim": (1, 2, 4, 4),
        "down_block_types": (
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": (
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "UpBlock2D",
        ),
        "transformer_layers_per_block": 4,
    },
}


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def shapes_of(tensors: dict[str, torch.Tensor], prefix: str) -> Shapes:
    return {name.removeprefix(prefix): tuple(t.shape) for name, t in tensors.items()}


def state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_reads_the_unet_off_its_shapes(
    to_original: Callable[..., dict[str, torch.Tensor]], config: dict[str, Any]
) -> None:
    unet = empty(lambda: UNet2DConditionModel(**config))
    derived = unet_config(shapes_of(to_original(unet), "model.diffusion_model."))
    again = empty(lambda: UNet2DConditionModel.from_config(derived))
    assert state_shapes(again) == state_shapes(unet)


FULL_SIZE = BASE | {
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
    "mid_block_type": "UNetMidBlock2D",
}
PUBLISHED: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "ssd-1b": (
        {
            "transformer_layers_per_block": ((1,), (2, 2), (4, 4)),
            "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
        },
        [0, 0, 2, 2, 4, 4],
        [4, 4, 10, 2, 1, 1, 0, 0, 0],
    ),
    "segmind-vega": (
        {"transformer_layers_per_block": (1, 1, 2)},
        [0, 0, 1, 1, 2, 2],
        [2, 2, 2, 1, 1, 1, 0, 0, 0],
    ),
}
"""What was published of Segmind's two, and the transformer blocks that single-file loaders expect
in each input and output block; neither has more in the middle than one ResNet."""


def depths(shapes: Shapes, side: str, blocks: list[int]) -> list[int]:
    """Return the transformer blocks in each of ``blocks`` of one side."""
    found = [re.match(rf"{side}\.(\d+)\.1\.transformer_blocks\.(\d+)\.", key) for key in shapes]
    pairs = {(int(match[1]), int(match[2])) for match in found if match}
    return [sum(block == index for index, _ in pairs) for block in blocks]


@pytest.mark.parametrize("name", PUBLISHED)
def test_segminds_unets_are_what_was_published(
    to_original: Callable[..., dict[str, torch.Tensor]], name: str
) -> None:
    config, down, up = PUBLISHED[name]
    unet = empty(lambda: UNet2DConditionModel(**FULL_SIZE | config))
    shapes = shapes_of(to_original(unet), "model.diffusion_model.")
    assert depths(shapes, "input_blocks", [1, 2, 4, 5, 7, 8]) == down
    assert depths(shapes, "output_blocks", list(range(9))) == up
    assert {key.split(".")[1] for key in shapes if key.startswith("middle_block")} == {"0"}
    derived = unet_config(shapes)
    again = empty(lambda: UNet2DConditionModel.from_config(derived))
    assert state_shapes(again) == state_shapes(unet)
    family = detect_family(
        "a",
        unet=derived,
        text_encoder_2={"projection_dim": 1280},
        scheduler={"_class_name": "EulerDiscreteScheduler"},
        has_text_encoder=True,
    )
    assert family.name == name


def test_heads_are_64_wide(to_original: Callable[..., dict[str, torch.Tensor]]) -> None:
    unet = empty(lambda: UNet2DConditionModel(**BASE))
    derived = unet_config(shapes_of(to_original(unet), "model.diffusion_model."))
    assert derived["attention_head_dim"] == [1, 2, 4]


def test_reads_the_autoencoder_off_its_shapes(
    to_original: Callable[..., dict[str, torch.Tensor]],
) -> None:
    vae = empty(
        lambda: AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
        )
    )
    derived = vae_config(shapes_of(to_original(vae), "first_stage_model."))
    assert state_shapes(empty(lambda: AutoencoderKL.from_config(derived))) == state_shapes(vae)
    assert derived["scaling_factor"] == 0.13025


TEXT = CLIPTextConfig(
    vocab_size=50,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=2,
    projection_dim=96,
)


def test_reads_clip_off_its_shapes(to_original: Callable[..., dict[str, torch.Tensor]]) -> None:
    encoder = empty(lambda: CLIPTextModel(TEXT))
    derived = clip_config(shapes_of(to_original(encoder), "conditioner.embedders.0.transformer."))
    facts = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    assert {fact: derived[fact] for fact in facts} == {fact: getattr(TEXT, fact) for fact in facts}
    assert (derived["num_attention_heads"], derived["hidden_act"]) == (2, "quick_gelu")


def test_reads_open_clip_off_its_shapes(
    to_original: Callable[..., dict[str, torch.Tensor]],
) -> None:
    encoder = empty(lambda: CLIPTextModelWithProjection(TEXT))
    derived = open_clip_config(shapes_of(to_original(encoder), "conditioner.embedders.0.model."))
    facts = ("vocab_size", "hidden_size", "projection_dim", "num_hidden_layers")
    assert {fact: derived[fact] for fact in facts} == {fact: getattr(TEXT, fact) for fact in facts}
    assert (derived["num_attention_heads"], derived["hidden_act"]) == (2, "gelu")


def test_refuses_blocks_in_no_arrangement_of_sdxl() -> None:
    with pytest.raises(ValueError, match="3 input blocks on 2 levels"):
        unet_config({"input_blocks.1.0.op.weight": (1,), "input_blocks.2.0.x": (1,)})
