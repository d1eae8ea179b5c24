"""What the measurements of the cache look like: tables for people, one JSON object for programs."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.cache_loopback import MAX_LOOPBACK_S, CacheOverLoopback
from diptych.bench.cache_s3 import MIN_S3_RATIO, CacheOnS3
from diptych.bench.cache_storage import (
    MAX_HIT_S,
    MIN_DISK_SHARE,
    MIN_READ_RATIO,
    MIN_WRITE_RATIO,
    CacheStorage,
    WaySpeed,
)
from diptych.bench.tables import judged, plain_table

__all__ = ["cache_as_json", "loopback_table", "s3_table", "storage_table"]


def cache_as_json(
    found: CacheStorage, over: CacheOverLoopback, on_s3: Sequence[CacheOnS3]
) -> dict[str, Any]:
    """Return the numbers and what follows from them."""
    derived = {
        "write_ratio": found.write_ratio,
        "read_ratio": found.read_ratio,
        "disk_share": found.disk_share,
        "holds": found.holds,
    }
    buckets = [
        asdict(one)
        | {"write_ratio": one.write_ratio, "read_ratio": one.read_ratio, "holds": one.holds}
        for one in on_s3
    ]
    loopback = asdict(over) | {"median_s": over.median_s, "holds": over.holds}
    return asdict(found) | derived | {"loopback": loopback, "s3": buckets}


def storage_table(found: CacheStorage) -> Table:
    """Return entries per second of each way, and bytes on the disk."""
    ways = (found.theirs, found.files, found.ours)
    table = plain_table(
        f"{found.num_entries} entries of SDXL's size, {len(found.disk_read_s)} slices",
        *(way.name for way in ways),
        "the disk itself",
        "ratio",
        "required",
    )
    count = found.slice_entries
    table.add_row(
        "write, entries/s",
        *(f"{count / statistics.median(way.write_s):.0f}" for way in ways),
        "",
        judged(f"{found.write_ratio:.1f}x", good=found.write_ratio >= MIN_WRITE_RATIO),
        f">= {MIN_WRITE_RATIO:g}x",
    )
    table.add_row(
        "cold read, entries/s",
        *(f"{count / statistics.median(way.read_s):.0f}" for way in ways),
        f"{count / statistics.median(found.disk_read_s):.0f}",
        judged(f"{found.read_ratio:.1f}x", good=found.read_ratio >= MIN_READ_RATIO),
        f">= {MIN_READ_RATIO:g}x",
    )
    table.add_row(
        "cold read, MB/s",
        *(f"{found.slice_bytes / statistics.median(way.read_s) / 1e6:.0f}" for way in ways),
        f"{found.slice_bytes / statistics.median(found.disk_read_s) / 1e6:.0f}",
        judged(f"{found.disk_share:.0%}", good=found.disk_share >= MIN_DISK_SHARE),
        f">= {MIN_DISK_SHARE:.0%} of the disk",
    )
    table.add_row("on the disk, KB an entry", *(_size(way, found.num_entries) for way in ways))
    table.add_row(
        "hit in memory, ms",
        "",
        "",
        f"{found.hit_s * 1e3:.4f}",
        "",
        judged("quick" if found.hit_s <= MAX_HIT_S else "slow", good=found.hit_s <= MAX_HIT_S),
        f"<= {MAX_HIT_S * 1e3:g}",
    )
    return table


def loopback_table(over: CacheOverLoopback) -> Table:
    """Return what a hit in a server's memory takes over gRPC."""
    table = plain_table("gRPC on loopback, p50", "a call of nothing", "a hit", "required")
    size = f"{over.entry_bytes / 1000:.0f} KB, ms"
    table.add_row(
        size,
        f"{statistics.median(over.probe_s) * 1e3:.2f}",
        judged(f"{over.median_s * 1e3:.2f}", good=over.holds),
        f"<= {MAX_LOOPBACK_S * 1e3:g}",
    )
    return table


def s3_table(found: Sequence[CacheOnS3]) -> Table:
    """Return entries per second to and from a bucket."""
    table = plain_table("S3 on loopback", "one object an entry", "packs", "ratio", "required")
    for one in found:
        for what, single, packed, ratio in (
            ("write", one.single_write_s, one.pack_write_s, one.write_ratio),
            ("read", one.single_read_s, one.pack_read_s, one.read_ratio),
        ):
            table.add_row(
                f"{what} {one.num_entries} of {one.entry_bytes / 1000:.0f} KB, entries/s",
                f"{one.num_entries / statistics.median(single):.0f}",
                f"{one.num_entries / statistics.median(packed):.0f}",
                judged(f"{ratio:.1f}x", good=ratio >= MIN_S3_RATIO),
                f">= {MIN_S3_RATIO:g}x",
            )
    return table


def _size(way: WaySpeed, num_entries: int) -> str:
    return f"{way.disk_bytes / num_entries / 1000:.1f}"
