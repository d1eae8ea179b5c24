"""Jobs over a real embedding cache: their folders, their tasks, their specs as text."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from diptych.embedding_cache.server import BackgroundCache
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.training.reporting import Reporter
from diptych.training.session import Session
from diptych.training.spec_text import parse_job, to_json
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from support.made_pictures import write_pictures

__all__ = ["a_session", "a_task", "an_attempt", "events_of", "nano_cache", "run_session"]


@contextmanager
def nano_cache(home: Path, *, dataset_dir: Path | None = Path("/")) -> Iterator[str]:
    """Serve the nano model's encoders, which may read datasets anywhere; give the address."""
    own = CacheSettings(
        port=0,
        metrics_port=None,
        base="nano/base-single",
        refiner=None,
        dataset_dir=dataset_dir,
    )
    server = BackgroundCache(Settings(home=home, cache=own))
    server.start(timeout_s=100.0)
    try:
        yield server.address
    finally:
        server.stop()


def a_task(
    home: Path, cache_address: str, *, attempt: int = 1, job_id: str = "job", **spec: Any
) -> WorkerTask:
    """Return the task of a nano LoRA of six pictures in eight steps, but for what is given."""
    write_pictures(home / "data" / "in", **{f"p{n}": f"a red ball {n}" for n in range(6)})
    run = {"num_steps": 8, "precision": "fp32", "batch_size": 2, "gradient_checkpointing": False}
    given = spec.pop("run", {})
    assert isinstance(given, Mapping)
    plain: dict[str, object] = {
        "name": "ball",
        "model": {"source": "nano"},
        "dataset": {
            "datasets": [
                {
                    "id": "one",
                    "source": {"type": "folder", "path": "data/in"},
                    "size": {"resolution": 64},
                    "captions": {"dropout": 0.2},
                    "checks": {"near_duplicates": "ignore"},
                }
            ]
        },
        "adapter": {"rank": 4},
        "checkpoints": {"every_steps": 3, "keep": 2},
        "run": run | dict(given),
    }
    job = parse_job(json.dumps(plain | spec).encode(), folder=home)
    return WorkerTask(
        job_id=job_id,
        tenant="default",
        attempt=attempt,
        spec=to_json(job),
        home=str(home),
        cache_address=cache_address,
        device="cpu",
    )


def an_attempt(task: WorkerTask) -> AttemptFolder:
    """Write a task where a worker looks for it."""
    folder = AttemptFolder(job_dir=Path(task.home) / "jobs" / task.job_id, attempt=task.attempt)
    folder.path.mkdir(parents=True)
    folder.task.write_text(task.to_json())
    return folder


def a_session(task: WorkerTask, folder: AttemptFolder) -> Session:
    """Return a session of one process."""
    spec = parse_job(task.spec.encode(), folder=Path(task.home))
    return Session(task, spec, folder, Accelerator(cpu=True), Reporter(folder))


def run_session(task: WorkerTask) -> Outcome:
    """Do a task in this process."""
    return a_session(task, an_attempt(task)).run()


def events_of(folder: AttemptFolder, kind: str) -> list[dict[str, object]]:
    """Return what was told of one kind."""
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    return [line["data"] for line in lines if line["kind"] == kind]
