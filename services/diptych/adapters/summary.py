"""From an adapter to the card that lists it."""

from datetime import datetime

from diptych.adapters.adapter import Adapter, LowRank, Target
from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.naming import Component
from diptych.digest import Digest

__all__ = ["summarise"]

_UNETS = frozenset({Component.UNET, Component.REFINER_UNET})
_LINEAR_AXES = 2


def summarise(
    adapter: Adapter, *, digest: Digest, size_bytes: int, source: str, created_at: datetime
) -> AdapterCard:
    """Return the card of ``adapter``, whose bundle has ``digest`` and ``size_bytes``."""
    made_for = adapter.made_for
    return AdapterCard(
        digest=digest,
        size_bytes=size_bytes,
        created_at=created_at,
        source=source,
        stage=made_for.stage,
        kinds=_kinds(adapter),
        components=adapter.components(),
        max_rank=adapter.max_rank,
        num_targets=len(adapter.targets),
        tokens={text: token.num_vectors for text, token in adapter.tokens.items()},
        trigger_words=adapter.trigger_words,
        family=made_for.family,
        base_fingerprint=made_for.base_fingerprint,
        prediction_type=made_for.prediction_type,
        zero_snr=made_for.zero_snr,
        timestep_range=made_for.timestep_range,
    )


def _kinds(adapter: Adapter) -> frozenset[Kind]:
    kinds = {kind for item in adapter.targets.items() for kind in _kinds_of_target(*item)}
    return frozenset(kinds | {Kind.TOKENS} if adapter.tokens else kinds)


def _kinds_of_target(target: Target, low_rank: LowRank) -> set[Kind]:
    is_convolution = low_rank.down.ndim > _LINEAR_AXES
    kinds = {Kind.CONV if is_convolution else Kind.LORA}
    if target.component not in _UNETS:
        kinds = {Kind.TEXT_ENCODER}
    return kinds | {Kind.DORA} if low_rank.magnitude else kinds
