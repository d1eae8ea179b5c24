"""All ways are measured on the same entries, and judged by what was promised."""

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.bench.cache_storage import CacheStorage, WaySpeed, drop_pages, measure_storage

SPEED = WaySpeed(name="", write_s=(3.0, 3.0), read_s=(5.0, 5.0), disk_bytes=1)
FOUND = CacheStorage(
    num_entries=2,
    slice_entries=1,
    slice_bytes=1,
    theirs=SPEED,
    files=SPEED,
    ours=replace(SPEED, write_s=(1.0, 1.0), read_s=(1.0, 1.0)),
    disk_read_s=(0.8, 0.8),
    hit_s=0.0003,
)


def test_every_way_writes_and_reads_every_slice(tmp_path: Path) -> None:
    turns: list[int] = []
    found = measure_storage(tmp_path, num_entries=8, num_slices=2, progress=lambda: turns.append(1))
    assert (found.num_entries, found.slice_entries, len(turns)) == (8, 4, 12)
    for way in (found.theirs, found.files, found.ours):
        assert len(way.write_s) == len(way.read_s) == 2
        assert 8 * 250_000 < way.disk_bytes < 8 * 400_000
    assert 0 < found.hit_s < 0.01


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True),
        ({"hit_s": 0.00031}, False),
        ({"disk_read_s": (0.79, 0.79)}, False),
        ({"theirs": replace(SPEED, write_s=(2.9, 2.9))}, False),
        ({"theirs": replace(SPEED, read_s=(4.9, 4.9))}, False),
    ],
)
def test_it_holds_if_every_promise_does(changed: dict[str, object], holds: bool) -> None:
    assert replace(FOUND, **changed).holds is holds  # type: ignore[arg-type]


def test_files_stay_what_they_are_when_they_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    drop_pages(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"abc"
