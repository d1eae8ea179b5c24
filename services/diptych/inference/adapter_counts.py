"""What a scrape tells of adapters, from what the engine and the tiers behind it count."""

from collections.abc import Mapping
from typing import Final

from diptych.inference.adapting import AdapterStats
from diptych.storage.tiers import TierStats
from diptych.telemetry.adapter_metrics import AdapterCounts

__all__ = ["adapter_counts"]

ORDINARY_RANK: Final = 16
"""Rank of the adapters that routers are told the device has room for."""


def adapter_counts(stats: AdapterStats, tiers: Mapping[str, TierStats]) -> AdapterCounts:
    """Return the counts of all tiers; ``tiers`` are those behind the device.

    Those are ``host``, and ``disk`` where one lies in front of a bucket. A tier is asked for what
    the one before it does not have.
    """
    pool = stats.pool
    device = TierStats(
        num_hits=pool.num_hits,
        num_misses=pool.num_misses,
        num_evictions=pool.num_evictions,
        num_held=len(set(pool.resident)),
        size_bytes=pool.size_bytes,
    )
    all_tiers = {"device": device, **tiers}
    return AdapterCounts(
        resident={name: tier.num_held for name, tier in all_tiers.items()},
        size_bytes={name: tier.size_bytes for name, tier in all_tiers.items()},
        hits={name: tier.num_hits for name, tier in all_tiers.items()},
        misses={name: tier.num_misses for name, tier in all_tiers.items()},
        evictions={name: tier.num_evictions for name, tier in all_tiers.items()},
        num_lines=pool.num_lines,
        lines_used=pool.lines_used,
        num_waiting=stats.num_waiting,
        num_active=len({digest for _, digest in pool.users}),
        max_adapters=max(1, pool.num_lines // ORDINARY_RANK),
        running=stats.running,
        waiting=stats.waiting,
    )
