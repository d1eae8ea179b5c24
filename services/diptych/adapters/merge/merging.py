"""Merging adapters: everything is checked first, then target after target is merged."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from diptych.adapters.adapter import MAX_RANK, Adapter, LowRank, Target
from diptych.adapters.merge.identity import (
    family_violations,
    merge_metadata,
    merge_purposes,
    merge_tokens,
    merge_words,
    on_experts,
)
from diptych.adapters.merge.peft_factors import FactorMerge
from diptych.adapters.merge.product import Part, WeightOf, merge_target
from diptych.adapters.merge.report import LayerReport, MergeReport
from diptych.adapters.merge.spec import MergeSpec, check_spec
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["Merged", "Progress", "merge"]

Progress = Callable[[int, int], None]
"""Told how many targets are merged, of how many; what it raises ends the merge."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """An adapter made of others, and what is to be known of it."""

    adapter: Adapter
    report: MergeReport


def merge(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    *,
    weight_of: WeightOf | None = None,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> Merged:
    """Merge ``adapters`` as ``spec`` says; equal inputs give equal bundles.

    Args:
        adapters: From 1 to ``MAX_ADAPTERS``; a target that some lack is merged of the others.
        spec: How.
        weight_of: The base model's weights, for DoRA, which depends on them. Asked with the
            targets of the result, so of both experts where stages differ.
        progress: Called after every target.
        device: Where to compute; None is where the factors are. Space ``factors`` stays there.

    Raises:
        InvalidRequest: A value is out of range, an option is of no use to the method, adapters
            were made for different things, a DoRA comes without weights or into a method that
            cannot hold it, or a result would exceed the largest rank. Everything that can be known
            beforehand is named at once.
    """
    _check(adapters, spec, has_weights=weight_of is not None)
    stage, targets = on_experts(adapters)
    weights = spec.weights_of(len(adapters))
    work: dict[Target, list[Part]] = {}
    for position, (of_adapter, weight) in enumerate(zip(targets, weights, strict=True)):
        for target, low_rank in of_adapter.items():
            part = Part(position=position, weight=weight, low_rank=low_rank)
            work.setdefault(target, []).append(part)
    merged: dict[Target, LowRank] = {}
    layers: list[LayerReport] = []
    step = _step(adapters, spec, weight_of, device)
    for target in work if spec.space == "factors" else sorted(work):
        merged[target], layer = step(target, work[target])
        layers.append(layer)
        if progress is not None:
            progress(len(layers), len(work))
    tokens, renamed = merge_tokens(adapters)
    adapter = Adapter(
        targets=MappingProxyType(merged),
        tokens=MappingProxyType(tokens),
        made_for=merge_purposes(adapters, stage),
        trigger_words=merge_words(adapters, renamed),
        metadata=MappingProxyType(merge_metadata(adapters, spec)),
    )
    return Merged(adapter=adapter, report=MergeReport(layers=tuple(layers), renamed=renamed))


_Step = Callable[[Target, Sequence[Part]], tuple[LowRank, LayerReport]]


def _step(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    weight_of: WeightOf | None,
    device: torch.device | None,
) -> _Step:
    """Return what merges one target."""
    if spec.space == "factors":
        generator = torch.Generator().manual_seed(spec.seed)
        # To PEFT, what only learned tokens is no adapter.
        ranks = [adapter.max_rank for adapter in adapters if adapter.targets]
        return FactorMerge(spec=spec, ranks=ranks, generator=generator).merge_target

    def in_product_space(target: Target, parts: Sequence[Part]) -> tuple[LowRank, LayerReport]:
        return merge_target(target, parts, spec, weight_of=weight_of, device=device)

    return in_product_space


def _check(adapters: Sequence[Adapter], spec: MergeSpec, *, has_weights: bool) -> None:
    found: list[FieldViolation] = []
    try:
        check_spec(spec, len(adapters), max_rank=MAX_RANK)
    except InvalidRequest as invalid:
        found += invalid.violations
    problems = [*family_violations(adapters), *_dora_violations(adapters, spec, has_weights)]
    found += [FieldViolation(field=field, description=problem) for field, problem in problems]
    if found:
        raise InvalidRequest(found)


def _dora_violations(
    adapters: Sequence[Adapter], spec: MergeSpec, has_weights: bool
) -> Iterator[tuple[str, str]]:
    for index, adapter in enumerate(adapters):
        if all(low_rank.magnitude is None for low_rank in adapter.targets.values()):
            continue
        if spec.space == "factors":
            problem = "is a DoRA, whose magnitudes PEFT's merges lose; use space product"
        elif spec.operator == "cat":
            problem = "is a DoRA, whose update has full rank; use svd with a rank"
        elif not has_weights:
            problem = "is a DoRA, whose update depends on the base model's weights"
        else:
            continue
        yield f"adapters[{index}]", problem
