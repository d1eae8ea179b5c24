"""The Ray pipeline, on a Ray of this machine with two workers: the local engine's bytes."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from diptych.digest import Digest
from diptych.embedding_cache.ports import Stage
from diptych.embedding_cache.ray_engine import ray_cluster
from diptych.embedding_cache.warm import WarmConfig
from diptych.embedding_cache.warm_loading import warming_here, warming_on_ray
from diptych.errors import ExtraMissing, SourceUnavailable
from support.warming import a_dataset, a_store, packed, settings_in, warmed

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""What Ray itself brings about."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a Ray with two workers; it ends with the test.

    Its workers compute with one thread each, and sums depend on how many there are.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
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
    torch.set_num_threads(num_threads)


def kept(home: Path) -> dict[str, bytes | None]:
    """Return every embedding below ``home``, by its key; each is there once."""
    found = packed(home)
    assert set(found.values()) == {1}
    with a_store(home) as store:
        return {key: store.tiers.get(Digest(hex=key), kind="any") for key in found}


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("two_workers")
def test_ray_writes_what_the_local_engine_writes(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 6)
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "p1.png").read_bytes()[:900])
    (tmp_path / "in" / "cut.txt").write_text("cut short")
    outcomes = []
    for engine, name in ((warming_here, "here"), (warming_on_ray, "ray"), (warming_on_ray, "ray")):
        with engine(settings_in(tmp_path / name), WarmConfig(folder=tmp_path)) as warmer:
            outcomes.append(warmed(warmer, manifest, Stage.BASE, Stage.REFINER))
    assert outcomes[0] == outcomes[1]
    assert (outcomes[2].num_present, outcomes[2].num_encoded) == (outcomes[0].num_encoded, 0)
    assert kept(tmp_path / "here") == kept(tmp_path / "ray")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraMissing, match="ray"), ray_cluster():
        pytest.fail("there is no Ray")


def test_cluster_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(SourceUnavailable, match="127"), ray_cluster("127.0.0.1:1"):
        pytest.fail("there is no cluster")
