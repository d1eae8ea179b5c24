"""``diptych bench cache`` prints what it measured."""

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Invoke = Callable[..., Result]


def test_keeping_embeddings_is_measured_and_written_as_json(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    asked = ("--entries", 8, "--slices", 2, "--s3-entries", 0, "--folder", tmp_path)
    result = invoke("bench", "cache", *asked, "--json", path)
    assert "SimpleTuner" in result.stdout, result.output
    assert json.loads(path.read_text())["num_entries"] == 8
    assert list(tmp_path.iterdir()) == [path]


def test_a_slice_has_at_least_one_entry(invoke: Invoke) -> None:
    result = invoke("bench", "cache", "--entries", 1, "--slices", 2)
    assert (result.exit_code, "--entries" in result.stderr) == (2, True), result.output
