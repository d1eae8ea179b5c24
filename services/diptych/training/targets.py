"""Which modules get low-rank updates, by their names and shapes alone."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal

__all__ = [
    "TEXT_TARGETS",
    "Shapes",
    "TargetModule",
    "Targets",
    "pattern_value",
    "target_modules",
    "text_modules",
]

Targets = Literal["attention", "linear", "linear_conv"]
Shapes = Mapping[str, tuple[int, ...]]
"""Names of a part's tensors to their shapes."""
TargetModule = tuple[str, tuple[int, ...]]
"""A module's name and its weight's shape, [out, in] or [out, in, height, width]."""

TEXT_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Of a text encoder's attentions."""
_ATTENTION: Final = re.compile(r".+\.(to_q|to_k|to_v|to_out\.0)")
_TRANSFORMER: Final = re.compile(
    r".+\.(attentions\.\d+|1)\.(proj_in|proj_out|transformer_blocks\..+)"
)
"""Diffusers' names, and those of the original layout, where a block's second part is it."""
_BLOCK: Final = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks\.[1-9]\d*|middle_block|output_blocks)\..+"
)
_LINEAR_RANK: Final = 2
_WEIGHT: Final = ".weight"
_CONV_RANK: Final = 4
_FUSED: Final = re.compile(r"(.+\.attn)\.in_proj_weight")


def target_modules(shapes: Shapes, targets: Targets) -> Iterator[TargetModule]:
    """Yield the modules of a UNet that ``targets`` mean, in its checkpoint's names and order.

    ``attention``: the four projections of each attention; ``linear``: every linear layer of the
    transformers; ``linear_conv``: every convolution of the blocks too.
    """
    wanted = _ATTENTION if targets == "attention" else _TRANSFORMER
    for name, shape in shapes.items():
        module = name.removesuffix(_WEIGHT)
        if module == name:
            continue
        is_linear = len(shape) == _LINEAR_RANK and wanted.fullmatch(module)
        is_conv = len(shape) == _CONV_RANK and _BLOCK.fullmatch(module)
        if is_linear or (is_conv and targets == "linear_conv"):
            yield module, shape


def pattern_value(patterns: Mapping[str, int], name: str, default: int) -> int:
    """Return what the first pattern says that matches the end of a module's name, as PEFT does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def text_modules(shapes: Shapes) -> Iterator[TargetModule]:
    """Yield the projections of a text encoder's attentions, OpenCLIP's fused ones one by one."""
    for name, shape in shapes.items():
        if fused := _FUSED.fullmatch(name):
            width = shape[1]
            for target in TEXT_TARGETS[:3]:
                yield f"{fused[1]}.{target}", (width, width)
        elif name.endswith(tuple(f".{target}{_WEIGHT}" for target in TEXT_TARGETS)):
            yield name.removesuffix(_WEIGHT), shape
