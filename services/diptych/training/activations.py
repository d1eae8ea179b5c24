"""How much memory a UNet's forward leaves for its backward, from shapes alone.

What autograd saves of a block is proportional to its positions times its channels, so that two
numbers describe a network at any size: T, the sum over transformer blocks of channels at their
positions, and R, the same over residual blocks of channels in and out. The factors below were
fitted to what autograd saves of SDXL 1.0 and SSD-1B in bfloat16 with fused attention, counted
tensor by tensor (``saved_tensors_hooks``) at 512 and 1024 pixels and batches of 1 and 2; against
those counts the sums are within 3 %. Nothing here was fitted on a GPU.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from diptych.training.targets import Shapes

__all__ = ["UnetBlocks", "saved_bytes", "text_saved_bytes", "unet_blocks"]

PIXELS_PER_LATENT: Final = 8
_TRANSFORMER: Final = re.compile(r"(?P<place>.+)\.transformer_blocks\.\d+\.attn1\.to_q\.weight")
_RESIDUAL: Final = re.compile(r"(?P<place>.+)\.(resnets\.\d+\.conv1|in_layers\.2)\.weight")
_SELF_ATTENTION: Final = re.compile(r".+\.(q_proj|in_proj)(\.|_)weight")
_PLACE: Final = re.compile(r"(down_blocks|up_blocks|input_blocks|output_blocks)\.(\d+)\b")
TOKENS: Final = 77
TEXT_FACTOR: Final = 34.0
"""Of a CLIP layer: as a transformer block's, whose feed-forward is as wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """Channels saved for each channel of T and of R."""

    transformer: float
    residual: float


ALL_TRAINED: Final = _Factors(transformer=28.4, residual=3.6)
ATTENTION_TRAINED: Final = _Factors(transformer=23.5, residual=2.6)
"""Frozen layers do not need their inputs again."""
ALL_RECOMPUTED: Final = _Factors(transformer=1.0, residual=1.47)
ATTENTION_RECOMPUTED: Final = _Factors(transformer=1.0, residual=1.08)
"""With gradient checkpointing, which keeps what goes into each block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetBlocks:
    """A UNet's blocks: channels, and how often the picture was halved before."""

    transformers: tuple[tuple[int, int], ...]
    """Channels and halvings of each."""
    residuals: tuple[tuple[int, int], ...]
    """Channels in and out together, and halvings, of each."""


def unet_blocks(shapes: Shapes, config: Mapping[str, object]) -> UnetBlocks:
    """Return the blocks of a UNet, in diffusers' names or in the original layout's."""
    levels = config.get("block_out_channels")
    num_levels = len(levels) if isinstance(levels, list | tuple) else 1
    layers = config.get("layers_per_block")
    num_layers = layers if isinstance(layers, int) else 2
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for name, shape in shapes.items():
        for blocks, pattern, width in (
            (found[0], _TRANSFORMER, shape[0] if shape else 0),
            (found[1], _RESIDUAL, sum(shape[:2])),
        ):
            if match := pattern.fullmatch(name):
                blocks.append((width, _halvings(match["place"], num_levels, num_layers)))
    return UnetBlocks(transformers=tuple(found[0]), residuals=tuple(found[1]))


def _halvings(place: str, num_levels: int, num_layers: int) -> int:
    match = _PLACE.match(place)
    if match is None:
        return num_levels - 1
    number = int(match[2])
    return {
        "down_blocks": number,
        "up_blocks": num_levels - 1 - number,
        "input_blocks": (number - 1) // (num_layers + 1),
        "output_blocks": num_levels - 1 - number // (num_layers + 1),
    }[match[1]]


def saved_bytes(
    blocks: UnetBlocks, *, num_pixels: int, item_bytes: int, all_trained: bool, recomputes: bool
) -> int:
    """Return the bytes that one forward leaves, and the largest block's working memory.

    Args:
        blocks: Of the UNet.
        num_pixels: Of all pictures of the batch together.
        item_bytes: Of one number in the compute precision.
        all_trained: Whether all layers are trained, not the attentions' projections alone.
        recomputes: Whether gradient checkpointing is on.
    """
    plain = ALL_TRAINED if all_trained else ATTENTION_TRAINED
    kept = (ALL_RECOMPUTED if all_trained else ATTENTION_RECOMPUTED) if recomputes else plain
    positions = num_pixels / PIXELS_PER_LATENT**2
    total = sum(_sizes(blocks, kept, positions))
    # A block's backward holds what it saved, here once more where it is recomputed, and gradients.
    largest = max(_sizes(blocks, plain, positions), default=0.0)
    return math.ceil((total + largest * (2 if recomputes else 1)) * item_bytes)


def _sizes(blocks: UnetBlocks, factors: _Factors, positions: float) -> Iterator[float]:
    for factor, found in (
        (factors.transformer, blocks.transformers),
        (factors.residual, blocks.residuals),
    ):
        for channels, halvings in found:
            yield factor * channels * positions / 4**halvings


def text_saved_bytes(shapes: Shapes, *, num_texts: int, item_bytes: int) -> int:
    """Return the bytes that a text encoder's forward leaves; it recomputes nothing."""
    width = sum(shape[1] for name, shape in shapes.items() if _SELF_ATTENTION.fullmatch(name))
    return math.ceil(TEXT_FACTOR * width * TOKENS * num_texts * item_bytes)
