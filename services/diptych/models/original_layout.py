"""What was built, read off the names and shapes of SDXL's original layout.

Only what shapes cannot say is taken as fact of the family: attention heads are 64 wide,
micro-conditions are embedded in 256 channels, group norms have 32 groups, CLIP-L uses
quick GELU and OpenCLIP bigG GELU (Podell et al. 2023 and the configurations it was released with).
"""

import re
from collections.abc import Mapping, Sequence

__all__ = ["Shapes", "clip_config", "open_clip_config", "unet_config", "vae_config"]

Shapes = Mapping[str, Sequence[int]]
"""Tensor names within a part, prefix removed, to their shapes."""

_HEAD_WIDTH = 64
_TIME_ID_WIDTH = 256
_LINEAR_RANK = 2


def unet_config(shapes: Shapes) -> dict[str, object]:
    """Return the configuration of diffusers' UNet2DConditionModel for these tensors.

    Raises:
        KeyError: a tensor every SDXL UNet has is absent.
        ValueError: the blocks do not follow SDXL's arrangement.
    """
    num_levels = 1 + sum(key.endswith(".0.op.weight") for key in shapes)
    num_inputs = _count(shapes, r"input_blocks\.(\d+)\.")
    num_layers = (num_inputs - num_levels) // num_levels
    if num_layers < 1 or num_levels * (num_layers + 1) != num_inputs:
        raise ValueError(f"{num_inputs} input blocks on {num_levels} levels")
    stride = num_layers + 1
    down = [
        [_depth(shapes, f"input_blocks.{1 + level * stride + i}.1") for i in range(num_layers)]
        for level in range(num_levels)
    ]
    up = [
        [_depth(shapes, f"output_blocks.{level * stride + i}.1") for i in range(stride)]
        for level in range(num_levels)
    ]
    channels = [
        shapes[f"input_blocks.{1 + level * stride}.0.in_layers.2.weight"][0]
        for level in range(num_levels)
    ]
    first_attention = next(key for key in shapes if key.endswith("attn2.to_k.weight"))
    projection = next(shapes[key] for key in shapes if key.endswith(".1.proj_in.weight"))
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": num_layers,
        "attention_head_dim": [width // _HEAD_WIDTH for width in channels],
        "cross_attention_dim": shapes[first_attention][1],
        "down_block_types": ["CrossAttnDownBlock2D" if any(d) else "DownBlock2D" for d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if any(d) else "UpBlock2D" for d in up],
        "use_linear_projection": len(projection) == _LINEAR_RANK,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": _TIME_ID_WIDTH,
        "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        **_transformer_depths(down, up, middle=_depth(shapes, "middle_block.1")),
    }


def vae_config(shapes: Shapes) -> dict[str, object]:
    """Return the configuration of diffusers' AutoencoderKL for these tensors."""
    num_levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [
            shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(num_levels)
        ],
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * num_levels,
        "up_block_types": ["UpDecoderBlock2D"] * num_levels,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    }


def clip_config(shapes: Shapes) -> dict[str, object]:
    """Return transformers' configuration of OpenAI's CLIP text encoder for these tensors."""
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "architectures": ["CLIPTextModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"text_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "projection_dim": width,
        "eos_token_id": 2,
    }


def open_clip_config(shapes: Shapes) -> dict[str, object]:
    """Return transformers' configuration of OpenCLIP's text encoder for these tensors.

    ``eos_token_id`` 2 is transformers' sign to pool at the highest token id, as CLIP does.
    """
    vocabulary, width = shapes["token_embedding.weight"]
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": shapes["positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": shapes["text_projection"][1],
        "eos_token_id": 2,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the highest index ``pattern`` captures at the start of a name."""
    indices = [int(match[1]) for key in shapes if (match := re.match(pattern, key))]
    return 1 + max(indices, default=-1)


def _depth(shapes: Shapes, block: str) -> int:
    return _count(shapes, re.escape(block) + r"\.transformer_blocks\.(\d+)\.")


def _transformer_depths(
    down: list[list[int]], up: list[list[int]], *, middle: int
) -> dict[str, object]:
    """Return how many transformer blocks each attention has, in the form diffusers expects.

    A level without attention is given the depth of the middle block, which reads the last one.
    SSD-1B and Segmind-Vega have no attention in the middle, and SSD-1B goes up otherwise than down.
    """
    middle_type = "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D"
    per_level = [max(depths) or middle or 1 for depths in down]
    mirrored = [
        [depth if any(level) else 0] * len(level)
        for depth, level in zip(reversed(per_level), up, strict=True)
    ]
    if up == mirrored and all(len(set(depths)) == 1 for depths in down):
        return {"mid_block_type": middle_type, "transformer_layers_per_block": per_level}
    return {
        "mid_block_type": middle_type,
        "transformer_layers_per_block": [
            depths if any(depths) else fallback
            for depths, fallback in zip(down, per_level, strict=True)
        ],
        "reverse_transformer_layers_per_block": [level if any(level) else 1 for level in up],
    }
