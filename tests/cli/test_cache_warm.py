"""``diptych cache warm`` encodes what is missing, sums it up, and names what cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings, Settings
from support.warming import a_dataset

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return the manifest of two pictures with captions."""
    file = tmp_path / "dataset.yaml"
    file.write_text(a_dataset(tmp_path, 2))
    return file


def test_what_is_missing_is_encoded_once(
    manifest: Path, tmp_path: Path, invoke_json: InvokeJson
) -> None:
    flags = ("--dir", tmp_path / "embeddings")
    first = invoke_json("cache", "warm", manifest, "--stage", "base", *flags)
    second = invoke_json("cache", "warm", manifest, *flags)
    assert (first["num_total"], first["num_encoded"], first["failures"]) == (4, 4, [])
    assert (second["num_total"], second["num_present"], second["num_encoded"]) == (4, 4, 0)
    assert invoke_json("cache", "stats", "--dir", tmp_path / "embeddings")["num_entries"] == 4


def test_person_is_told_what_was_done_and_what_cannot_be_used(
    manifest: Path, invoke: Invoke
) -> None:
    (manifest.parent / "in" / "p0.png").write_bytes(b"no picture")
    (manifest.parent / "in" / "p1.txt").write_text("long " * 200)
    result = invoke("cache", "warm", manifest)
    assert result.exit_code == 1
    assert "2 embeddings are needed: 2 encoded, 0 were there" in result.stdout
    assert "1 captions are longer than the window" in result.stdout
    assert "one: p0.png" in result.stdout


def test_modes_that_leave_something_out_are_told(manifest: Path, invoke: Invoke) -> None:
    manifest.write_text(a_dataset(manifest.parent, 2, "cache: {images: on_demand}"))
    shown = invoke("cache", "warm", manifest).stdout
    assert "2 embeddings are needed: 2 encoded, 0 were there" in shown
    assert "one images: made on demand, while training" in shown
    forced = invoke("cache", "warm", manifest, "--force").stdout
    assert "4 embeddings are needed: 2 encoded, 2 were there" in forced


def test_server_warms_up_with_its_own_files(
    manifest: Path, tmp_path: Path, invoke_json: InvokeJson
) -> None:
    own = CacheSettings(port=0, metrics_port=None, dataset_dir=manifest.parent)
    server = BackgroundCache(Settings(home=tmp_path / "home", cache=own))
    server.start(timeout_s=100.0)
    found = invoke_json("cache", "warm", manifest, "--server", server.address)
    manifest.write_text(a_dataset(manifest.parent, 2, "cache: {images: on_demand}"))
    (manifest.parent / "in" / "p1.txt").write_text("long " * 200)
    cut = invoke_json("cache", "warm", manifest, "--server", server.address)
    flags = ("--force", "--long-prompt", "chunk", "--epochs", "2", "--batch-size", "2")
    forced = invoke_json("cache", "warm", manifest, "--server", server.address, *flags)
    server.stop()
    assert (found["num_total"], found["num_encoded"]) == (4, 4)
    assert (cut["num_total"], cut["num_encoded"], cut["num_cut"]) == (2, 1, 1)
    assert [one["what"] for one in cut["left_out"]] == ["one images"]
    assert (forced["num_total"], forced["num_encoded"], forced["num_cut"]) == (4, 1, 0)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--engine", "spark"), "--engine"),
        (("--engine", "ray", "--server", "127.0.0.1:1"), "--engine"),
        (("--ray-address", "127.0.0.1:1"), "--engine"),
        (("--stage", "middle"), "--stage"),
        (("--long-prompt", "forget"), "--long-prompt"),
        (("--server", "127.0.0.1:1", "--base", "nano"), "--server"),
    ],
)
def test_flags_that_do_not_fit_are_named(
    flags: tuple[str, ...], named: str, manifest: Path, invoke: Invoke
) -> None:
    result = invoke("cache", "warm", manifest, *flags)
    assert result.exit_code == 2
    assert named in result.stderr


def test_manifest_that_is_not_there_is_named(tmp_path: Path, invoke: Invoke) -> None:
    for flags in ((), ("--server", "127.0.0.1:1")):
        result = invoke("cache", "warm", tmp_path / "none.yaml", *flags)
        assert result.exit_code == 2
        assert "none.yaml" in result.stderr
