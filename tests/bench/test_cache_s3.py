"""Packs and single objects are measured on one server."""

from dataclasses import replace

import pytest

from diptych.bench import cache_s3
from diptych.bench.cache_s3 import CacheOnS3, measure_s3, s3_server
from diptych.errors import ExtraMissing

FOUND = CacheOnS3(
    num_entries=1,
    entry_bytes=4096,
    single_write_s=(10.0,),
    single_read_s=(10.0,),
    pack_write_s=(1.0,),
    pack_read_s=(1.0,),
)


def test_both_are_measured() -> None:
    with s3_server() as url:
        found = measure_s3(url, num_entries=6, is_small=True, repeats=2)
        large = measure_s3(url, num_entries=2, is_small=False, repeats=1)
    assert (found.entry_bytes, len(found.single_read_s)) == (4096, 2)
    assert min(found.write_ratio, found.read_ratio) > 0
    assert large.entry_bytes > 200_000


def test_large_entries_are_judged_like_small_ones() -> None:
    assert not replace(FOUND, entry_bytes=290_000, pack_read_s=(5.0,)).holds


@pytest.mark.parametrize("name", ["pack_write_s", "pack_read_s"])
def test_it_holds_if_packs_are_ten_times_as_quick(name: str) -> None:
    assert FOUND.holds
    assert not replace(FOUND, **{name: (1.1,)}).holds  # type: ignore[arg-type]


def test_without_a_server_to_run_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_s3, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissing), s3_server():
        pass
