"""What a merged adapter is, besides its factors: purpose, tokens, words and origin.

Family and prediction type must be the same wherever they are known. The base's fingerprint, and
whether its schedule ends in zero signal, stay known only where all inputs say the same. The
timestep range is the smallest that holds all of them, or the whole where one has none. Unlike
stages make an adapter of both, in which each expert's factors are merged apart.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.merge.report import RenamedToken
from diptych.adapters.merge.spec import MergeSpec

__all__ = [
    "MERGE_KEY",
    "family_violations",
    "merge_metadata",
    "merge_purposes",
    "merge_tokens",
    "merge_words",
    "on_experts",
]

MERGE_KEY: Final = "diptych.merge"
"""The metadata that says how an adapter was merged, as JSON."""
_UNETS: Final = (Component.UNET, Component.REFINER_UNET)
_Targets = Mapping[Target, LowRank]


def family_violations(adapters: Sequence[Adapter]) -> Iterator[tuple[str, str]]:
    """Yield field and problem of everything that keeps adapters from being merged."""
    purposes = [adapter.made_for for adapter in adapters]
    for name, values in {
        "family": [purpose.family for purpose in purposes],
        "prediction type": [purpose.prediction_type for purpose in purposes],
    }.items():
        known = [(index, value) for index, value in enumerate(values) if value is not None]
        for index, value in known[1:]:
            first, expected = known[0]
            if value != expected:
                problem = f"its {name} is {value}, that of adapters[{first}] {expected}"
                yield f"adapters[{index}]", problem
    if len({purpose.stage for purpose in purposes}) > 1:
        for index, adapter in enumerate(adapters):
            of_text = any(target.component not in _UNETS for target in adapter.targets)
            if of_text and adapter.made_for.stage is not Stage.BOTH:
                stage = adapter.made_for.stage
                problem = f"changes text encoders in stage {stage} only, others in other stages"
                yield f"adapters[{index}]", problem
    shapes: dict[Target, tuple[int, tuple[int, ...]]] = {}
    for index, adapter in enumerate(adapters):
        for target, low_rank in adapter.targets.items():
            first, expected_shape = shapes.setdefault(target, (index, low_rank.weight_shape))
            if low_rank.weight_shape != expected_shape and not _apart(adapters, first, index):
                name = f"{target.component}.{target.module}"
                found, wanted = list(low_rank.weight_shape), list(expected_shape)
                yield f"adapters[{index}]", f"{name} is {found}, in adapters[{first}] {wanted}"


def on_experts(adapters: Sequence[Adapter]) -> tuple[Stage, list[_Targets]]:
    """Return the stage of the merge and each adapter's targets as that stage names them.

    While stages agree, nothing moves. Otherwise a refiner's targets become ``refiner_unet``, and
    an adapter whose ``unet`` factors serve both experts gets them under both names.
    """
    stages = {adapter.made_for.stage for adapter in adapters}
    own = {_has(adapter.targets, Component.REFINER_UNET) for adapter in adapters}
    if len(stages) == 1 and (stages != {Stage.BOTH} or len(own) == 1):
        return stages.pop(), [adapter.targets for adapter in adapters]
    moved = [_named_by_expert(adapter) for adapter in adapters]
    for stage, absent in ((Stage.BASE, Component.REFINER_UNET), (Stage.REFINER, Component.UNET)):
        if stage in stages and not any(_has(targets, absent) for targets in moved):
            back = [_renamed(targets, Component.REFINER_UNET, Component.UNET) for targets in moved]
            return stage, list(back)
    return Stage.BOTH, moved


def merge_purposes(adapters: Sequence[Adapter], stage: Stage) -> MadeFor:
    """Return what the merged adapter is made for; the inputs have no violations."""
    purposes = [adapter.made_for for adapter in adapters]
    ranges = [purpose.timestep_range for purpose in purposes]
    known = [timesteps for timesteps in ranges if timesteps is not None]
    whole = len(known) < len(ranges)
    fingerprints = {purpose.base_fingerprint for purpose in purposes}
    zero_snr = {purpose.zero_snr for purpose in purposes}
    return MadeFor(
        family=next((p.family for p in purposes if p.family is not None), None),
        base_fingerprint=fingerprints.pop() if len(fingerprints) == 1 else None,
        stage=stage,
        prediction_type=next(
            (p.prediction_type for p in purposes if p.prediction_type is not None), None
        ),
        zero_snr=zero_snr.pop() if len(zero_snr) == 1 else None,
        timestep_range=None if whole else (min(r[0] for r in known), max(r[1] for r in known)),
    )


def merge_tokens(
    adapters: Sequence[Adapter],
) -> tuple[dict[str, LearnedToken], tuple[RenamedToken, ...]]:
    """Keep every learned token; of different ones by one name, the later are renamed.

    ``<s0>`` becomes ``<s0-2>``, or the next number that no token has. The same vectors by the same
    name are one token.
    """
    taken = Counter(text for adapter in adapters for text in adapter.tokens)
    kept: dict[str, LearnedToken] = {}
    renamed: list[RenamedToken] = []
    for position, adapter in enumerate(adapters):
        for text, token in sorted(adapter.tokens.items()):
            if text not in kept:
                kept[text] = token
            elif not _same(kept[text], token):
                free = _free_name(text, taken)
                taken[free] += 1
                kept[free] = token
                renamed.append(RenamedToken(position=position, text=text, renamed_to=free))
    return kept, tuple(renamed)


def merge_words(adapters: Sequence[Adapter], renamed: Sequence[RenamedToken]) -> tuple[str, ...]:
    """Return all trigger words, each once, in the adapters' order; renamed tokens follow."""
    words: dict[str, None] = {}
    for position, adapter in enumerate(adapters):
        names = {one.text: one.renamed_to for one in renamed if one.position == position}
        for word in adapter.trigger_words:
            words.setdefault(names.get(word, word))
    return tuple(words)


def merge_metadata(adapters: Sequence[Adapter], spec: MergeSpec) -> dict[str, str]:
    """Return what all inputs' metadata agree on, and how they were merged."""
    first, *others = [adapter.metadata for adapter in adapters]
    agreed = {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }
    said = {
        "method": spec.method,
        "space": spec.space,
        "weights": list(spec.weights_of(len(adapters))),
        "seed": spec.seed,
        "scale": spec.scale,
        "density": spec.density,
        "rank": spec.rank,
        "energy": spec.energy,
        "election": spec.election,
        "weighted_vote": spec.weighted_vote,
        "epsilon": spec.epsilon,
        "position": spec.position,
    }
    text = json.dumps({key: value for key, value in said.items() if value is not None})
    return agreed | {MERGE_KEY: text}


def _apart(adapters: Sequence[Adapter], first: int, second: int) -> bool:
    """Return whether two adapters act on different experts, whose shapes differ."""
    stages = {adapters[first].made_for.stage, adapters[second].made_for.stage}
    return stages == {Stage.BASE, Stage.REFINER}


def _has(targets: _Targets, component: Component) -> bool:
    return any(target.component is component for target in targets)


def _named_by_expert(adapter: Adapter) -> _Targets:
    targets = dict(adapter.targets)
    if adapter.made_for.stage is Stage.REFINER:
        return _renamed(targets, Component.UNET, Component.REFINER_UNET)
    if adapter.made_for.stage is Stage.BOTH and not _has(targets, Component.REFINER_UNET):
        return targets | dict(_renamed(targets, Component.UNET, Component.REFINER_UNET))
    return targets


def _renamed(targets: _Targets, component: Component, to: Component) -> _Targets:
    return {
        replace(target, component=to) if target.component is component else target: low_rank
        for target, low_rank in targets.items()
    }


def _same(first: LearnedToken, second: LearnedToken) -> bool:
    return first.vectors.keys() == second.vectors.keys() and all(
        torch.equal(vectors, second.vectors[part]) for part, vectors in first.vectors.items()
    )


def _free_name(text: str, taken: Mapping[str, int]) -> str:
    stem, end = (text[:-1], ">") if text.endswith(">") else (text, "")
    number = 2
    while f"{stem}-{number}{end}" in taken:
        number += 1
    return f"{stem}-{number}{end}"
