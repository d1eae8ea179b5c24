"""The tables and the JSON hold what was measured."""

import json

from rich.console import Console
from rich.table import Table

from diptych.bench.cache_loopback import CacheOverLoopback
from diptych.bench.cache_s3 import CacheOnS3
from diptych.bench.cache_storage import CacheStorage, WaySpeed
from diptych.bench.cache_tables import cache_as_json, loopback_table, s3_table, storage_table


def way(name: str, seconds: float) -> WaySpeed:
    return WaySpeed(name=name, write_s=(seconds,), read_s=(seconds,), disk_bytes=3000)


FOUND = CacheStorage(
    num_entries=10,
    slice_entries=10,
    slice_bytes=1_000_000,
    theirs=way("SimpleTuner's", 4.0),
    files=way("safetensors files", 2.0),
    ours=way("Diptych", 1.0),
    disk_read_s=(0.5,),
    hit_s=0.0001,
)
ON_S3 = CacheOnS3(
    num_entries=10,
    entry_bytes=4096,
    single_write_s=(10.0,),
    single_read_s=(30.0,),
    pack_write_s=(1.0,),
    pack_read_s=(1.0,),
)

OVER = CacheOverLoopback(entry_bytes=318_000, read_s=(0.0015,), probe_s=(0.0005,))


def printed(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_ratios_and_speeds_are_in_the_table() -> None:
    text = printed(storage_table(FOUND))
    for word in ("4.0x", "50%", "0.1000", "0.3", "SimpleTuner's", "Diptych"):
        assert word in text


def test_a_bucket_has_two_lines() -> None:
    text = printed(s3_table([ON_S3]))
    assert "write 10 of 4 KB" in text
    assert "30.0x" in text


def test_numbers_and_what_follows_from_them_are_in_the_json() -> None:
    answer = json.loads(json.dumps(cache_as_json(FOUND, OVER, [ON_S3])))
    assert (answer["read_ratio"], answer["disk_share"], answer["holds"]) == (4.0, 0.5, False)
    assert (answer["loopback"]["median_s"], answer["loopback"]["holds"]) == (0.0015, True)
    assert answer["s3"][0]["read_ratio"] == 30.0


def test_a_hit_stands_beside_a_call_of_nothing() -> None:
    text = printed(loopback_table(OVER))
    assert "318 KB" in text
    assert "0.50" in text
    assert "1.50" in text
