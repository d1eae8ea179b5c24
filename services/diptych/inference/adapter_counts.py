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
    """Return the counts of all tiers; ``tiers`` are ``host`` and ``disk``.

    Hits and misses are counted on the device and on disk: what is in host memory was asked for
    by requests that wait.
    """
    pool, disk = stats.pool, tiers.get("disk", TierStats())
    return AdapterCounts(
        resident={"device": len(pool.resident), "host": len(pool.in_host)},
        size_bytes={name: tier.size_bytes for name, tier in tiers.items()},
        hits={"device": pool.num_hits, "disk": disk.num_hits},
        misses={"device": pool.num_misses, "disk": disk.num_misses},
        evictions={"device": pool.num_evictions, "disk": disk.num_evictions},
        num_lines=pool.num_lines,
        lines_used=pool.lines_used,
        num_waiting=stats.num_waiting,
        max_adapters=pool.num_lines // ORDINARY_RANK,
        running=stats.running,
        waiting=stats.waiting,
    )
