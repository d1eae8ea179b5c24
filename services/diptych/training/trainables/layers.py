"""Which layers get low-rank updates, and of what rank and alpha, before any is made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from torch import nn
from transformers import CLIPTextModel

from diptych.adapters.adapter import LowRank
from diptych.errors import FieldViolation, InvalidRequest
from diptych.training.spec import AdapterSpec, TextEncoderSpec
from diptych.training.targets import LINEAR_LAYERS, matched_pattern

__all__ = ["LayerPlan", "plan_text_layers", "plan_unet_layers", "unread_parts"]

_N = TypeVar("_N", int, float)
_TEXT_ATTENTION: Final = re.compile(r".+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)")
_MATCHES_NOTHING: Final = "decides of no layer that is trained"
_BLOCKS: Final = ("down_blocks.", "mid_block.", "up_blocks.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerPlan:
    """What one layer gets."""

    rank: int
    alpha: float
    start: LowRank | None = None
    """What it begins with; None begins with no change."""


def plan_unet_layers(unet: nn.Module, spec: AdapterSpec) -> dict[str, LayerPlan]:
    """Return the layers of a UNet that ``spec`` names.

    A pattern is matched as PEFT does: at the end of a module's name, the first that matches counts.

    Raises:
        InvalidRequest: A pattern matches none of them.
    """
    names = [name for name, module in unet.named_modules() if _is_target(name, module, spec)]
    ranks, alphas = _matched(names, spec.rank_pattern), _matched(names, spec.alpha_pattern)
    unused = [
        FieldViolation(field=f"adapter.{field}.{key}", description=_MATCHES_NOTHING)
        for field, pattern in (
            ("rank_pattern", spec.rank_pattern),
            ("alpha_pattern", spec.alpha_pattern),
        )
        for key in pattern
        if all(key != matched_pattern(pattern, name) for name in names)
    ]
    if unused:
        raise InvalidRequest(unused)
    planned = {}
    for name in names:
        rank = ranks.get(name, spec.rank)
        alpha = alphas.get(name, rank if spec.alpha is None else spec.alpha)
        planned[name] = LayerPlan(rank=rank, alpha=float(alpha))
    return planned


def plan_text_layers(encoder: nn.Module, spec: TextEncoderSpec) -> dict[str, LayerPlan]:
    """Return the attention's layers of a text encoder that a UNet sees something of."""
    alpha = float(spec.rank if spec.alpha is None else spec.alpha)
    return {
        name: LayerPlan(rank=spec.rank, alpha=alpha)
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
        and _TEXT_ATTENTION.fullmatch(name)
        and not name.startswith(unread_parts(encoder))
    }


def unread_parts(encoder: nn.Module) -> tuple[str, ...]:
    """Return beginnings of names of what nothing reads: after the penultimate hidden states.

    Such weights get no gradient, for which processes of a group would wait. All of the encoder
    that pools is read.
    """
    if not isinstance(encoder, CLIPTextModel):
        return ()
    last = encoder.config.num_hidden_layers - 1
    ends = (f"encoder.layers.{last}.", "final_layer_norm.")
    # Some versions of transformers have one more level.
    return (*ends, *(f"text_model.{end}" for end in ends))


def _is_target(name: str, module: nn.Module, spec: AdapterSpec) -> bool:
    is_linear = isinstance(module, nn.Linear)
    if wanted := LINEAR_LAYERS.get(spec.targets):
        return is_linear and bool(wanted.fullmatch(name))
    if ".attentions." in name and is_linear:
        return True
    if not isinstance(module, nn.Conv2d):
        return False
    return spec.targets == "linear_conv" and name.startswith(_BLOCKS)


def _matched(names: Sequence[str], pattern: Mapping[str, _N]) -> dict[str, _N]:
    keys = {name: matched_pattern(pattern, name) for name in names}
    return {name: pattern[key] for name, key in keys.items() if key is not None}
