"""``diptych bench training-faults`` prints what became of the jobs, and fails if any was harmed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from diptych.bench import training_faults
from diptych.bench.training_faults import FaultsConfig
from support.found_faults import found

Invoke = Callable[..., Result]


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (1, 1)])
def test_status_says_whether_a_job_was_harmed(
    lost: int, status: int, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FaultsConfig] = []

    def measured(config: FaultsConfig, folder: Path, **_: object) -> training_faults.FaultsFound:
        assert folder.is_dir()
        asked.append(config)
        return found(lost=lost)

    monkeypatch.setattr(training_faults, "measure_faults", measured)
    path = tmp_path / "faults.json"
    options = ("--jobs", 3, "--seed", 7, "--real", "--json", path)
    result = invoke("bench", "training-faults", *options)
    assert result.exit_code == status, result.output
    assert asked == [FaultsConfig(num_jobs=3, seed=7, is_real=True)]
    assert "two workers at once" in result.stdout
    assert (json.loads(path.read_text())["lost"], lost == 0) == (lost, not status)
