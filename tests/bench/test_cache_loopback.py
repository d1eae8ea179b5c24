"""A hit over loopback is measured against a real server in a process of its own."""

from pathlib import Path

from diptych.bench.cache_loopback import CacheOverLoopback, measure_loopback


def test_every_read_is_timed(tmp_path: Path) -> None:
    found = measure_loopback(tmp_path, num_reads=3)
    assert (len(found.read_s), found.entry_bytes > 300_000) == (3, True)


def test_the_median_is_what_is_judged() -> None:
    found = CacheOverLoopback(entry_bytes=1, read_s=(0.001, 0.002, 1.0), probe_s=(0.001,))
    assert (found.median_s, found.holds) == (0.002, True)
