"""``diptych cache`` tells what is kept, finds damage and lets go only of what nothing needs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.digest import Digest
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.embeddings.tiers import open_packs

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]
KEYS = [Digest.of_bytes(bytes([number])) for number in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that holds three embeddings."""
    folder = tmp_path / "embeddings"
    packs = open_packs(store_config(Settings(cache=CacheSettings(dir=folder))))
    assert packs is not None
    for key in KEYS:
        packs.put(key, key.hex.encode() * 100)
    packs.close()
    return folder


def age(folder: Path, seconds: float) -> None:
    """Let everything in ``folder`` seem written that long ago."""
    for path in folder.rglob("*"):
        changed_s = path.stat().st_mtime - seconds
        os.utime(path, (changed_s, changed_s))


def test_stats_count_what_is_kept(folder: Path, invoke_json: InvokeJson) -> None:
    assert invoke_json("cache", "stats", "--dir", folder)["num_entries"] == 3


def test_stats_for_people_name_the_place(folder: Path, invoke: Invoke) -> None:
    shown = invoke("cache", "stats", "--dir", folder).stdout
    assert str(folder) in shown
    assert "num entries" in shown


def test_whole_store_is_verified(folder: Path, invoke_json: InvokeJson) -> None:
    found = invoke_json("cache", "verify", "--dir", folder)
    assert (found["num_entries"], found["is_whole"]) == (3, True)


def test_damage_is_found_and_set_aside(folder: Path, invoke: Invoke) -> None:
    (pack,) = [
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000
    ]
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    assert invoke("cache", "verify", "--dir", folder).exit_code == 1
    assert "num entries              2" in invoke("cache", "stats", "--dir", folder).stdout


def test_collection_is_told_and_not_done(folder: Path, invoke_json: InvokeJson) -> None:
    age(folder, 7200)
    assert invoke_json("cache", "gc", "--dir", folder)["num_collected"] == 3
    assert invoke_json("cache", "stats", "--dir", folder)["num_entries"] == 3


def test_collection_is_done_when_it_is_wanted(folder: Path, invoke_json: InvokeJson) -> None:
    age(folder, 7200)
    invoke_json("cache", "gc", "--dir", folder, "--yes")
    assert invoke_json("cache", "stats", "--dir", folder)["num_entries"] == 0


def test_what_was_just_written_stays(folder: Path, invoke_json: InvokeJson) -> None:
    invoke_json("cache", "gc", "--dir", folder, "--yes")
    assert invoke_json("cache", "stats", "--dir", folder)["num_entries"] == 3


def test_younger_than_asked_for_stays(folder: Path, invoke_json: InvokeJson) -> None:
    age(folder, 7200)
    found = invoke_json("cache", "gc", "--dir", folder, "--older-than", "1d")
    assert found["num_collected"] == 0


@pytest.mark.parametrize("amount", ["soon", "1x", "-1h", "", "1e9"])
def test_amount_that_is_none_is_refused(folder: Path, invoke: Invoke, amount: str) -> None:
    result = invoke("cache", "gc", "--dir", folder, f"--older-than={amount}")
    assert (result.exit_code, "--older-than" in result.stderr) == (2, True), result.output


def test_folder_that_is_none_is_refused_and_not_made(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("cache", "stats", "--dir", tmp_path / "absent")
    assert (result.exit_code, "--dir" in result.stderr) == (2, True), result.output
    assert not (tmp_path / "absent").exists()


def test_server_is_asked(tmp_path: Path, invoke_json: InvokeJson) -> None:
    cache = CacheSettings(port=0, metrics_port=None, dir=tmp_path / "served")
    running = BackgroundCache(Settings(home=tmp_path, cache=cache))
    running.start(timeout_s=100.0)
    try:
        found = invoke_json("cache", "stats", "--server", running.address)
        assert [tier["tier"] for tier in found["tiers"]] == ["memory", "disk"]
        evicted = invoke_json("cache", "gc", "--server", running.address)
        assert (evicted["num_evicted"], evicted["is_dry_run"]) == (0, True)
    finally:
        running.stop()


def test_budget_alone_lets_go_of_no_more_than_exceeds_it(
    folder: Path, invoke_json: InvokeJson
) -> None:
    age(folder, 7200)
    assert invoke_json("cache", "gc", "--dir", folder, "--budget", "1G")["num_collected"] == 0
