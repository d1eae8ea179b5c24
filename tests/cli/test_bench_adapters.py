"""Benchmarks of adapters are commands that print a table and write JSON."""

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Invoke = Callable[..., Result]


def test_a_device_is_measured_and_written_as_json(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    asked = ("--architecture", "nano", "--rank", 2, "--images", 1, "--repeats", 1)
    result = invoke("bench", "adapters", *asked, "--json", path)
    assert (result.exit_code, "from a file" in result.stdout) == (0, True), result.output
    assert json.loads(path.read_text())["config"]["rank"] == 2


def test_full_size_needs_a_gpu(invoke: Invoke) -> None:
    result = invoke("bench", "adapters", "--architecture", "sdxl", "--device", "cpu")
    assert (result.exit_code, "needs a GPU" in result.stderr) == (2, True)


def test_a_churn_is_measured_and_written_as_json(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "churn.json"
    result = invoke("bench", "adapter-churn", "--operations", 5, "--rest", 0, "--json", path)
    assert "usable lines" in result.stdout, result.output
    assert json.loads(path.read_text())["weights_kept"]
