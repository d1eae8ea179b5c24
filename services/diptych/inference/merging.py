"""A merge of stored adapters: opened, found to be alike, merged; storing it is the catalogue's."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from torch import Tensor

from diptych.adapters.adapter import Adapter, Stage, Target
from diptych.adapters.bundle import from_bytes
from diptych.adapters.merge.merging import Merged, merge
from diptych.adapters.registry import Registry
from diptych.adapters.soundness import check_numbers
from diptych.errors import AdapterInvalid, AdapterMismatch, FieldViolation, InvalidRequest
from diptych.inference.base_weights import BaseWeights, weight_of
from diptych.inference.orders import ZIP, MergeOrder
from diptych.inference.trajectory import Expert

__all__ = ["Zips", "merge_stored"]

Zips = Callable[[Sequence[Adapter], MergeOrder, Callable[[int, int], None]], Merged]
"""Merges by learned coefficients, on this server's experts; told each step."""

FIELDS: Final = {"position": "slerp_t"}
"""What the merge calls a field -> what the request does."""


def merge_stored(
    registry: Registry,
    order: MergeOrder,
    *,
    weights: Mapping[Expert, BaseWeights],
    progress: Callable[[int, int], None],
    zips: Zips | None = None,
) -> Merged:
    """Merge the adapters that ``order`` names; what ``progress`` raises ends it.

    ``zips`` is what the method ``zip`` needs; None does not offer it.

    Raises:
        AdapterNotFound: One of them is not there.
        AdapterMismatch: They were made for unlike models.
        InvalidRequest: They cannot be merged like that, or the result is beyond all bounds.
    """
    merged = _merged(registry, order, weights=weights, progress=progress, zips=zips)
    try:
        check_numbers(merged.adapter, order.name)
    except AdapterInvalid as invalid:
        problem = f"with these values and weights there is no merging: {invalid}"
        raise InvalidRequest([FieldViolation(field="sources", description=problem)]) from invalid
    return merged


def _merged(
    registry: Registry,
    order: MergeOrder,
    *,
    weights: Mapping[Expert, BaseWeights],
    progress: Callable[[int, int], None],
    zips: Zips | None,
) -> Merged:
    with ExitStack() as stack:
        adapters: list[Adapter] = []
        for reference in order.sources:
            digest = registry.resolve(reference, tenant=order.tenant)
            path = stack.enter_context(registry.hold(digest, tenant=order.tenant))
            adapters.append(from_bytes(path, source=reference))
        if order.force:
            adapters = _without_purpose(adapters)
        _check_alike(adapters, order.sources)
        if order.spec.method == ZIP:
            return _zipped(adapters, order, zips, progress)
        stages = {adapter.made_for.stage for adapter in adapters}
        stage = stages.pop() if len(stages) == 1 else Stage.BOTH

        def of_base(target: Target) -> Tensor:
            return weight_of(target, weights, stage)

        try:
            return merge(adapters, order.spec, weight_of=of_base, progress=progress)
        except InvalidRequest as invalid:
            raise InvalidRequest([_of_request(v) for v in invalid.violations]) from invalid


def _zipped(
    adapters: Sequence[Adapter],
    order: MergeOrder,
    zips: Zips | None,
    progress: Callable[[int, int], None],
) -> Merged:
    if zips is None:
        problem = "zip needs experts that this server does not host"
        raise InvalidRequest([FieldViolation(field="method", description=problem)])
    try:
        return zips(adapters, order, progress)
    except InvalidRequest as invalid:
        raise InvalidRequest([_of_request(v) for v in invalid.violations]) from invalid


def _check_alike(adapters: Sequence[Adapter], references: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for adapter, reference in zip(adapters, references, strict=True):
        facts = {
            "family": adapter.made_for.family,
            "prediction type": adapter.made_for.prediction_type,
        }
        for field, value in facts.items():
            if value is not None and known.setdefault(field, value) != value:
                raise AdapterMismatch(
                    adapter=reference, field=field, made_for=value, used_on=known[field]
                )


def _without_purpose(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Return the adapters less what they disagree in: family, prediction type or both."""
    families = {adapter.made_for.family for adapter in adapters} - {None}
    predictions = {adapter.made_for.prediction_type for adapter in adapters} - {None}
    return [
        replace(
            adapter,
            made_for=replace(
                adapter.made_for,
                family=adapter.made_for.family if len(families) == 1 else None,
                prediction_type=(
                    adapter.made_for.prediction_type if len(predictions) == 1 else None
                ),
            ),
        )
        for adapter in adapters
    ]


def _of_request(violation: FieldViolation) -> FieldViolation:
    """Return a violation that names the request's field."""
    field = FIELDS.get(violation.field, violation.field)
    field = re.sub(r"^adapters\b", "sources", field)
    field = re.sub(r"^weights\[(\d+)\]", r"sources[\1].weight", field)
    return FieldViolation(field=field, description=violation.description)
