"""Settings become experts on a device, and the facts that requests are checked against."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from diffusers import AutoencoderTiny
from prometheus_client import CollectorRegistry

from diptych.digest import Digest
from diptych.errors import CheckpointInvalid, ModelNotFound
from diptych.inference.loading import load_engine
from diptych.inference.server import Loaded
from diptych.inference.settings import InferenceSettings, Settings
from diptych.inference.trajectory import (
    Completed,
    Event,
    Failed,
    ImageRequest,
    StageSettings,
    Timings,
)
from diptych.models.trained_experts import expert_folder, point_at
from diptych.nano.pair import expert_path
from diptych.telemetry.metrics import InferenceMetrics

LoadWith = Callable[..., Loaded]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def load(home: Path) -> LoadWith:
    def load(**own: object) -> Loaded:
        settings = Settings(home=home, inference=InferenceSettings(**own))  # type: ignore[arg-type]
        return load_engine(settings, InferenceMetrics(CollectorRegistry()))

    return load


@pytest.fixture(scope="module")
def pair(load: LoadWith) -> Loaded:
    return load(max_side=192, num_slots=5)


def test_embedded_pair_is_hosted_by_default(pair: Loaded) -> None:
    hosted = pair.hosted
    assert hosted.base is not None
    assert hosted.refiner is not None
    assert (hosted.base.family, hosted.refiner.family) == ("nano", "nano")
    assert (hosted.base.model, hosted.base.prediction_type) == ("nano", "v_prediction")


def test_defaults_are_the_familys(pair: Loaded) -> None:
    assert (pair.hosted.width, pair.hosted.height) == (128, 128)


def test_limits_are_the_tighter_of_settings_and_family(pair: Loaded) -> None:
    assert (pair.hosted.limits.min_side, pair.hosted.limits.max_side) == (64, 192)


def test_engine_has_the_slots_that_were_set(pair: Loaded) -> None:
    assert (pair.num_slots, pair.engine.stats().slots_free) == (5, 5)


def test_refiner_takes_latents_of_its_own_family(pair: Loaded) -> None:
    assert pair.hosted.refinable_families == {"nano"}


def looked(metrics: InferenceMetrics, tier: str, name: str) -> float | None:
    labels = {"tier": tier, "kind": "prompt"}
    return metrics.registry.get_sample_value(f"diptych_cache_{name}_total", labels)


def painted(loaded: Loaded) -> Timings:
    """Paint one step and return how long it took."""
    stage, told = StageSettings(prompt="a red circle"), Future[Timings]()
    request = ImageRequest(request_id="a", width=64, height=64, seed=1, num_steps=1, base=stage)

    def listen(event: Event) -> None:
        if isinstance(event, Completed):
            told.set_result(event.timings)
        elif isinstance(event, Failed):
            told.set_exception(event.error)

    loaded.engine.submit(request, listen)
    return told.result(60.0)


def test_a_repeated_prompt_is_not_encoded_again(home: Path) -> None:
    metrics = InferenceMetrics(CollectorRegistry())
    loaded = load_engine(Settings(home=home, inference=InferenceSettings(refiner=None)), metrics)
    loaded.engine.start()
    first, second = painted(loaded), painted(loaded)
    loaded.engine.stop()
    loaded.close()
    assert (first.num_texts_encoded, first.num_texts_cached) == (2, 0)
    assert (second.num_texts_encoded, second.num_texts_cached) == (0, 2)
    assert (looked(metrics, "memory", "hits"), looked(metrics, "memory", "misses")) == (2, 2)


def test_no_memory_for_prompts_encodes_each_time(home: Path) -> None:
    metrics = InferenceMetrics(CollectorRegistry())
    own = InferenceSettings(refiner=None, prompt_cache_bytes=0)
    loaded = load_engine(Settings(home=home, inference=own), metrics)
    loaded.engine.start()
    assert [painted(loaded).num_texts_cached for _ in range(2)] == [0, 0]
    loaded.engine.stop()
    assert looked(metrics, "memory", "misses") is None


def test_a_service_that_is_away_costs_no_picture(home: Path, free_port: int) -> None:
    own = InferenceSettings(refiner=None, prompt_cache_peer=f"127.0.0.1:{free_port}")
    metrics = InferenceMetrics(CollectorRegistry())
    loaded = load_engine(Settings(home=home, inference=own), metrics)
    loaded.engine.start()
    assert painted(loaded).num_texts_encoded == 2
    loaded.engine.stop()
    loaded.close()
    assert looked(metrics, "service", "misses") == 2


def test_an_expert_that_was_trained_here_is_hosted_by_its_name(load: LoadWith, home: Path) -> None:
    digest = Digest.of_bytes(b"weights")
    folder = expert_folder(home / "experts", "huggy", digest)
    shutil.copytree(expert_path("base-single"), folder)
    point_at(home / "experts", "huggy", digest)
    hosted = load(base="experts/huggy").hosted
    assert hosted.base is not None
    assert hosted.base.model == "experts/huggy"


def test_base_alone_hosts_no_refiner(load: LoadWith) -> None:
    hosted = load(refiner=None).hosted
    assert (hosted.refiner, hosted.refinable_families) == (None, frozenset())


def test_single_model_of_the_embedded_pair_has_a_name(load: LoadWith) -> None:
    hosted = load(base="nano/base-single").hosted
    assert hosted.base is not None
    assert (hosted.base.model, hosted.refiner) == ("nano/base-single", None)


def test_preview_decoder_that_is_not_there_is_named(load: LoadWith, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="taesd"):
        load(preview_decoder=str(tmp_path / "taesd"))


def test_preview_decoder_of_other_latents_is_refused(load: LoadWith, tmp_path: Path) -> None:
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "taef1")
    with pytest.raises(CheckpointInvalid, match="16 latent channels, the experts have 4"):
        load(preview_decoder=str(tmp_path / "taef1"))


def test_model_that_is_not_there_is_named(load: LoadWith, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load(base=str(tmp_path / "absent"))
