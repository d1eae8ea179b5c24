"""Jobs whose workers, owners and database are killed and cut end once, as asked, and alike."""

from pathlib import Path

import pytest

from diptych.bench.training_faults import FaultsConfig, measure_faults

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("num_jobs", "is_on_postgres"),
    [(10, True), pytest.param(10, False, marks=pytest.mark.slow)],
    ids=["postgresql", "sqlite"],
)
def test_no_job_is_lost_doubled_or_altered(
    num_jobs: int, is_on_postgres: bool, tmp_path: Path
) -> None:
    config = FaultsConfig(num_jobs=num_jobs, is_on_postgres=is_on_postgres, timeout_s=400.0)
    found = measure_faults(config, tmp_path)
    assert found.holds, found
    assert sum(found.kills.values()) > 1


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_job_that_trains_is_lost_doubled_or_altered(tmp_path: Path) -> None:
    found = measure_faults(FaultsConfig(num_jobs=5, is_real=True, timeout_s=1500.0), tmp_path)
    assert found.holds, found
