"""A job that is asked for over gRPC ends in a name that paints over gRPC, though it was killed."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from diptych.clients.calls import AdapterChoice, GenerateCall, Stage
from diptych.clients.config import ClientConfig
from diptych.clients.inference import InferenceClient
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import CheckpointWritten, JobCall, JobProgress
from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings
from diptych.embedding_cache.settings import Settings as CacheServiceSettings
from diptych.inference.server import BackgroundServer
from diptych.inference.settings import InferenceSettings
from diptych.inference.settings import Settings as InferenceServiceSettings
from diptych.rpc.channel import ChannelConfig
from diptych.training.server import BackgroundTraining
from diptych.training.settings import Settings, TrainingSettings

pytestmark = pytest.mark.system

START_TIMEOUT_S = 110.0
MODEL = "nano/base-single"
SPEC = f"""
name: squares
model: {{source: {MODEL}}}
run: {{num_steps: 20, precision: fp32, batch_size: 2}}
checkpoints: {{every_steps: 5}}
dataset: {{datasets: [{{id: a, source: {{type: folder, path: data}}, size: {{resolution: 64}}}}]}}
"""


def called(address: str) -> ClientConfig:
    return ClientConfig(channel=ChannelConfig(address=address), timeout_s=110.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with four pictures in ``data``."""
    (tmp_path / "data").mkdir()
    for number in range(4):
        path = tmp_path / "data" / f"{number}.png"
        Image.new("RGB", (64, 64), (60 * number, 100, 50)).save(path)
        path.with_suffix(".txt").write_text("a plain square")
    return tmp_path


@pytest.fixture
def cache(home: Path) -> Iterator[BackgroundCache]:
    own = CacheSettings(port=0, metrics_port=None, base=MODEL, refiner=None, dataset_dir=home)
    server = BackgroundCache(CacheServiceSettings(home=home, cache=own))
    server.start(timeout_s=START_TIMEOUT_S)
    yield server
    server.stop()


@pytest.fixture
def training(home: Path, cache: BackgroundCache) -> Iterator[TrainingClient]:
    own = TrainingSettings(
        port=0,
        metrics_port=None,
        cache_address=cache.address,
        dataset_dir=home,
        device="cpu",
        retry_backoff_s=0.1,
    )
    server = BackgroundTraining(Settings(home=home, training=own))
    server.start(timeout_s=START_TIMEOUT_S)
    with TrainingClient(called(server.address)) as client:
        yield client
    server.stop()


def kill_worker(job_id: str, last: str = "") -> None:
    """Kill the process that trains a job, or its mate, whose last word is its expert."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        is_worker = "diptych.training.worker" in words and any(
            f"/{job_id}/" in one for one in words
        )
        if is_worker and words[-1].endswith(last):
            process.kill()


@pytest.mark.timeout(300)
def test_job_survives_its_worker_and_ends_in_a_served_name(
    home: Path, training: TrainingClient
) -> None:
    job = training.create(JobCall(spec=SPEC)).job
    assert job is not None
    was_killed = False
    steps = []
    for event in training.watch(job.job_id):
        if isinstance(event.event, CheckpointWritten) and not was_killed:
            kill_worker(job.job_id)
            was_killed = True
        if isinstance(event.event, JobProgress) and event.attempt > 1:
            steps.append(event.event.step)
    ended = training.get(job.job_id)
    assert (ended.state, ended.attempt, ended.num_faults) == ("succeeded", 2, 1)
    assert 5 < steps[0] < steps[-1] == 20
    own = InferenceSettings(port=0, metrics_port=None, base=MODEL, refiner=None, grace_s=1.0)
    server = BackgroundServer(InferenceServiceSettings(home=home, inference=own))
    server.start(timeout_s=START_TIMEOUT_S)
    with InferenceClient(called(server.address)) as painter:
        call = GenerateCall(
            base=Stage(prompt="a plain square"),
            adapters=[AdapterChoice(adapter="squares")],
            num_steps=2,
            width=64,
            height=64,
        )
        (picture,) = painter.generate_images(call)
    server.stop()
    assert picture.data


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_job_whose_experts_are_trained_at_once_survives_either_process(
    training: TrainingClient,
) -> None:
    run = "run: {side_by_side: true, num_steps: 100,"
    text = SPEC.replace("run: {num_steps: 20,", run) + "stage: both\nboundary: 0.65\n"
    job = training.create(JobCall(spec=text)).job
    assert job is not None
    killed: list[str] = []
    done: dict[str, int] = {}
    for event in training.watch(job.job_id):
        told = event.event
        if isinstance(told, CheckpointWritten) and event.attempt == len(killed) + 1 < 3:
            kill_worker(job.job_id, "refiner" if not killed else "/2")
            killed.append(told.expert)
        if isinstance(told, JobProgress):
            done[told.expert] = told.step
    ended = training.get(job.job_id)
    assert (ended.state, ended.attempt, ended.num_faults) == ("succeeded", 3, 2)
    assert done == {"base": 100, "refiner": 100}
