"""An adapter of both stages as one adapter per expert, and back.

Foreign formats know one UNet to a file. Where the refiner has factors of its own, the base's file
and the refiner's together say what one adapter does here.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.keymap import reads_like_refiner
from diptych.storage.tensor_header import Refuse

__all__ = ["has_refiner_factors", "join_stages", "split_stages"]

_REFINER_FAMILY: Final = "sdxl-refiner"
"""The one family of experts without the first text encoder."""


def has_refiner_factors(adapter: Adapter) -> bool:
    """Return whether ``adapter`` has factors of its own for a refiner's UNet."""
    return any(target.component is Component.REFINER_UNET for target in adapter.targets)


def split_stages(adapter: Adapter) -> tuple[Adapter, Adapter] | None:
    """Return what the base and what the refiner take of ``adapter``, as an adapter for each.

    Updates and tokens of text encoders are in both; those of CLIP-L are not in that of SDXL's
    refiner, which has none. None if it is not of both stages, or there is nothing for the base:
    then two adapters do not say what it is.
    """
    of_base, of_refiner, shared = _sorted_out(adapter)
    if adapter.made_for.stage is not Stage.BOTH or not (of_base or shared or adapter.tokens):
        return None
    modules = [target.module for target in of_refiner]
    left_out = {Component.TEXT_ENCODER} if reads_like_refiner(modules) else set[Component]()
    kept = {target: own for target, own in shared.items() if target.component not in left_out}
    base = replace(
        adapter,
        targets=MappingProxyType({**of_base, **shared}),
        made_for=replace(adapter.made_for, stage=Stage.BASE),
    )
    refiner = replace(
        adapter,
        targets=MappingProxyType({**of_refiner, **kept}),
        tokens=MappingProxyType(_tokens_without(adapter.tokens, left_out)),
        made_for=_of_refiner(adapter.made_for, is_sdxl=bool(left_out)),
    )
    return base, refiner


def join_stages(base: Adapter, refiner: Adapter, refuse: Refuse) -> Adapter:
    """Return the adapter of both stages that ``split_stages`` gave ``base`` and ``refiner`` of.

    Raises:
        DiptychError: ``refuse``'s, when one is not of its stage, or the refiner has another
            update or token of a text encoder than the base.
    """
    for adapter, stage in ((base, Stage.BASE), (refiner, Stage.REFINER)):
        if adapter.made_for.stage is not stage or has_refiner_factors(adapter):
            raise refuse(f"has an adapter for {adapter.made_for.stage} in its folder {stage}")
    targets = dict(base.targets)
    for target, own in refiner.targets.items():
        if target.component is Component.UNET:
            targets[Target(component=Component.REFINER_UNET, module=target.module)] = own
        elif target not in targets or not _is_same(own, targets[target]):
            name = f"{target.component}.{target.module}"
            raise refuse(f"has another {name} for the refiner than for the base")
    for text, token in refiner.tokens.items():
        vectors = base.tokens[text].vectors if text in base.tokens else {}
        if any(not _is_equal(rows, vectors.get(part)) for part, rows in token.vectors.items()):
            raise refuse(f"has another token {text!r} for the refiner than for the base")
    return replace(
        base,
        targets=MappingProxyType(targets),
        made_for=replace(base.made_for, stage=Stage.BOTH),
    )


def _sorted_out(
    adapter: Adapter,
) -> tuple[dict[Target, LowRank], dict[Target, LowRank], dict[Target, LowRank]]:
    """Return the updates of the base's UNet, of the refiner's, and of encoders."""
    of_base: dict[Target, LowRank] = {}
    of_refiner: dict[Target, LowRank] = {}
    shared: dict[Target, LowRank] = {}
    for target, own in adapter.targets.items():
        if target.component is Component.REFINER_UNET:
            of_refiner[Target(component=Component.UNET, module=target.module)] = own
        else:
            (of_base if target.component is Component.UNET else shared)[target] = own
    return of_base, of_refiner, shared


def _of_refiner(made_for: MadeFor, *, is_sdxl: bool) -> MadeFor:
    """Return what a refiner's part is made for; which weights it was trained on is not known."""
    family = _REFINER_FAMILY if is_sdxl and made_for.family is not None else made_for.family
    return replace(made_for, stage=Stage.REFINER, family=family, base_fingerprint=None)


def _tokens_without(
    tokens: Mapping[str, LearnedToken], left_out: set[Component]
) -> dict[str, LearnedToken]:
    """Return tokens without their vectors of some encoders; those of no other are not there."""
    found: dict[str, LearnedToken] = {}
    for text, token in tokens.items():
        vectors = {part: own for part, own in token.vectors.items() if part not in left_out}
        if vectors:
            found[text] = LearnedToken(vectors=MappingProxyType(vectors))
    return found


def _is_same(one: LowRank, other: LowRank) -> bool:
    norms = [own.magnitude.norms if own.magnitude else torch.empty(0) for own in (one, other)]
    return (
        one.alpha == other.alpha
        and _is_equal(one.down, other.down)
        and _is_equal(one.up, other.up)
        and _is_equal(norms[0], norms[1])
    )


def _is_equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype is other.dtype and torch.equal(one, other)
