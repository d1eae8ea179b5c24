"""Which modules get low-rank updates, by their names and shapes alone."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal

import regex

__all__ = [
    "LINEAR_LAYERS",
    "PATTERN_S",
    "TEXT_TARGETS",
    "Shapes",
    "TargetModule",
    "Targets",
    "matched_pattern",
    "pattern_problem",
    "pattern_value",
    "slow_pattern",
    "target_modules",
    "text_modules",
]

Targets = Literal["prompt", "attention", "linear", "linear_conv"]
Shapes = Mapping[str, tuple[int, ...]]
"""Names of a part's tensors to their shapes."""
TargetModule = tuple[str, tuple[int, ...]]
"""A module's name and its weight's shape, [out, in] or [out, in, height, width]."""

TEXT_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Of a text encoder's attentions."""
PATTERN_S: Final = 5.0
"""Seconds that a job's patterns may take; sound ones take milliseconds."""
LINEAR_LAYERS: Final[Mapping[Targets, re.Pattern[str]]] = MappingProxyType(
    {
        "prompt": re.compile(r".+\.attn2\.(to_k|to_v)|add_embedding\.linear_1|label_emb\.0\.0"),
        "attention": re.compile(r".+\.(to_q|to_k|to_v|to_out\.0)"),
    }
)
"""Names of the only layers of targets that are less than all of the transformers."""
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

    ``prompt``: what reads the prompt, token by token and pooled; ``attention``: the four
    projections of each attention; ``linear``: every linear layer of the transformers;
    ``linear_conv``: every convolution of the blocks too.
    """
    wanted = LINEAR_LAYERS.get(targets, _TRANSFORMER)
    for name, shape in shapes.items():
        module = name.removesuffix(_WEIGHT)
        if module == name:
            continue
        is_linear = len(shape) == _LINEAR_RANK and wanted.fullmatch(module)
        is_conv = len(shape) == _CONV_RANK and _BLOCK.fullmatch(module)
        if is_linear or (is_conv and targets == "linear_conv"):
            yield module, shape


def matched_pattern(
    patterns: Iterable[str], name: str, *, timeout_s: float = PATTERN_S
) -> str | None:
    """Return the first pattern that matches the end of a module's name, as PEFT matches them.

    Other threads go on meanwhile, since callers write patterns and some never come to an end.

    Raises:
        TimeoutError: One takes longer than ``timeout_s``.
    """
    for pattern in patterns:
        if regex.match(_at_end(pattern), name, timeout=timeout_s, concurrent=True):
            return pattern
    return None


def pattern_value(patterns: Mapping[str, int], name: str, default: int) -> int:
    """Return what the pattern says that decides of a module."""
    pattern = matched_pattern(patterns, name)
    return default if pattern is None else patterns[pattern]


def pattern_problem(pattern: str) -> str:
    """Return why ``pattern`` is no regular expression, to Python's and to this module's engine."""
    for compiled in (re.compile, regex.compile):
        try:
            compiled(_at_end(pattern))
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            return str(error)
    return ""


def slow_pattern(
    patterns: Iterable[str], names: Iterable[str], *, limit_s: float = PATTERN_S
) -> str | None:
    """Return the pattern with which matching ``names`` takes more than ``limit_s``, None if none.

    ``limit_s`` is of all together.
    """
    names, ends_at = tuple(names), time.monotonic() + limit_s
    for pattern in patterns:
        for name in names:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return pattern
            try:
                matched_pattern((pattern,), name, timeout_s=left_s)
            except TimeoutError:
                return pattern
    return None


def _at_end(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def text_modules(shapes: Shapes) -> Iterator[TargetModule]:
    """Yield the projections of a text encoder's attentions, OpenCLIP's fused ones one by one."""
    for name, shape in shapes.items():
        if fused := _FUSED.fullmatch(name):
            width = shape[1]
            for target in TEXT_TARGETS[:3]:
                yield f"{fused[1]}.{target}", (width, width)
        elif name.endswith(tuple(f".{target}{_WEIGHT}" for target in TEXT_TARGETS)):
            yield name.removesuffix(_WEIGHT), shape
