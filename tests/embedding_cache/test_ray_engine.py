"""The Ray pipeline, on a Ray of this machine with two workers: the local engine's bytes."""

import builtins
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from diptych.datasets.manifest import parse_manifest
from diptych.embedding_cache.ports import Stage, WarmOutcome
from diptych.embedding_cache.ray_engine import RayEngine, connect_ray
from diptych.embedding_cache.settings import Settings
from diptych.embedding_cache.warm import WarmConfig
from diptych.embedding_cache.warm_loading import warming_here, warming_on_ray
from diptych.errors import ExtraMissing
from support.warming import a_dataset, packed, settings_in

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""What Ray itself brings about."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a Ray with two workers; it ends with the test."""
    import ray

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "services"))
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def test_ray_writes_what_the_local_engine_writes(ray_cluster: None, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 6)
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "p1.png").read_bytes()[:900])
    (tmp_path / "in" / "cut.txt").write_text("cut short")
    config = WarmConfig(folder=tmp_path)
    outcomes = []
    for engine, name in ((warming_here, "here"), (warming_on_ray, "ray")):
        with engine(settings_in(tmp_path / name), config) as warmer:
            outcomes.append(
                warmer.warm(
                    manifest,
                    [Stage.BASE, Stage.REFINER],
                    tenant="default",
                    go_on=lambda: None,
                    progress=lambda *_: None,
                )
            )
    print(outcomes)
    assert outcomes[0] == outcomes[1]
    assert packed(tmp_path / "here") == packed(tmp_path / "ray")
