"""What a fine-tune costs: a job's own worker against the plain loop of diffusers' scripts.

Both train the same LoRA on the same pictures in turns, and every number is the median of the paired
repeats. Ours is all that a worker does between its preparations and its last step: reading
embeddings from a cache's service, drawing latents, telling progress. As where they are used, the
worker, the cache and the plain loop have a process each: in one they slow each other down.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from diptych.bench.cache_loopback import served_cache
from diptych.bench.throughput import Pairs
from diptych.bench.training_reference import (
    Picture,
    PlainConfig,
    PlainModels,
    PlainTraining,
)
from diptych.nano.pair import expert_path
from diptych.nano.pictures import draw_examples
from diptych.training.devices import make_accelerator
from diptych.training.events import EventKind
from diptych.training.session import Session
from diptych.training.spec_text import parse_job
from diptych.training.task import AttemptFolder, Wish, WorkerTask

__all__ = [
    "MIN_OVER_ENCODING",
    "MIN_OVER_REMEMBERED",
    "TrainingSpeed",
    "TrainingSpeedConfig",
    "measure_training",
    "own_process",
]

MIN_OVER_ENCODING: Final = 1.5
MIN_OVER_REMEMBERED: Final = 1.0
_JOB: Final = """\
name: bench
model: {{source: nano/base-single}}
dataset: {{datasets: [{{id: scenes, source: {{type: folder, path: {folder}}}, size: {{resolution: {resolution}}}}}]}}
adapter: {{rank: {rank}, init: gaussian}}
optimizer: {{name: adamw, learning_rate: {learning_rate}}}
checkpoints: {{every_steps: 1000000}}
run: {{num_steps: {num_steps}, batch_size: {batch_size}, precision: fp32, gradient_checkpointing: false}}
"""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpeedConfig:
    """What is measured, and how often."""

    plain: PlainConfig = field(default_factory=PlainConfig)
    num_pictures: int = 64
    repeats: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpeed:
    """What ``bench training`` finds on the nano model."""

    config: TrainingSpeedConfig
    encoding: Pairs
    """Against the loop that opens and encodes everything at every step."""
    remembered: Pairs
    """Against the loop that has everything encoded in memory."""
    warm_s: tuple[float, ...]
    """What a worker needs before its first step: index, warm-up of an empty cache the first time,
    loading the network."""

    @property
    def num_images(self) -> int:
        """Return how many images one side of a repeat trains on."""
        return self.config.plain.num_steps * self.config.plain.batch_size

    @property
    def holds(self) -> bool:
        """Whether everything is as quick as is promised."""
        return (
            self.encoding.ratio >= MIN_OVER_ENCODING
            and self.remembered.ratio >= MIN_OVER_REMEMBERED
        )


def own_process() -> Executor:
    """Return a process of its own that does what it is given, one after the other."""
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def measure_training(
    config: TrainingSpeedConfig,
    *,
    folder: Path,
    progress: Callable[[], None] = lambda: None,
    make_executor: Callable[[], Executor] = own_process,
) -> TrainingSpeed:
    """Train in turns and return the seconds.

    Args:
        config: What to measure.
        folder: Empty; pictures, embeddings and adapters are put there.
        progress: Called after every repeat.
        make_executor: Of what trains one side.
    """
    pictures = _draw(folder / "scenes", config.num_pictures)
    ours_s, warm_s, encoding_s, remembered_s = [], [], [], []
    with (
        served_cache(folder / "cache") as cache,
        make_executor() as ours,
        make_executor() as theirs,
    ):
        for number in range(-1, config.repeats):  # the first warms both up
            job = (folder, number, cache.channel.address, config.plain)
            prepared_s, steps_s = ours.submit(_train_ours, *job).result()
            plain = (config.plain, pictures)
            encoded_s = theirs.submit(_train_theirs, *plain, encodes=True).result()
            cached_s = theirs.submit(_train_theirs, *plain, encodes=False).result()
            warm_s.append(prepared_s)
            if number >= 0:
                ours_s.append(steps_s)
                encoding_s.append(encoded_s)
                remembered_s.append(cached_s)
                progress()
    return TrainingSpeed(
        config=config,
        encoding=Pairs(ours_s=tuple(ours_s), theirs_s=tuple(encoding_s)),
        remembered=Pairs(ours_s=tuple(ours_s), theirs_s=tuple(remembered_s)),
        warm_s=tuple(warm_s),
    )


def _train_ours(
    folder: Path, number: int, address: str, config: PlainConfig
) -> tuple[float, float]:
    return _Job(folder, number, address, config).train()


def _train_theirs(config: PlainConfig, pictures: Sequence[Picture], *, encodes: bool) -> float:
    models = PlainModels.load(expert_path("base-single"))
    return PlainTraining(models, config).train(pictures, encodes=encodes)


def _draw(folder: Path, count: int) -> Sequence[Picture]:
    folder.mkdir(parents=True)
    pictures = []
    for number, example in enumerate(draw_examples("plain", count=count)):
        path = folder / f"{number:05}.png"
        example.picture.save(path)
        path.with_suffix(".txt").write_text(example.text, encoding="utf-8")
        pictures.append((path, example.text))
    return pictures


class _Job:
    """One job as a worker does it; hears what it tells, and when."""

    def __init__(self, folder: Path, number: int, address: str, config: PlainConfig) -> None:
        text = _JOB.format(
            folder=folder / "scenes",
            resolution=config.resolution,
            rank=config.rank,
            learning_rate=config.learning_rate,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
        )
        self._task = WorkerTask(
            job_id=f"bench-{number}",
            tenant="default",
            attempt=1,
            spec=text,
            home=str(folder / "home"),
            cache_address=address,
            device="cpu",
        )
        self._spec = parse_job(text.encode(), folder=folder)
        self._attempt = AttemptFolder(job_dir=folder / "jobs" / str(number), attempt=1)
        self._prepared_s = self._last_s = 0.0

    def train(self) -> tuple[float, float]:
        """Do the job; return the seconds of its preparations and those of its steps."""
        accelerator = make_accelerator(self._task, self._spec, timeout=timedelta(hours=1))
        session = Session(self._task, self._spec, self._attempt, accelerator, self)
        began = time.perf_counter()
        session.run()
        return self._prepared_s - began, self._last_s - self._prepared_s

    def tell(self, kind: EventKind, data: Mapping[str, Any]) -> None:
        """Note when preparations end, and when the last step does."""
        del data
        if kind is EventKind.PREPARED:
            self._prepared_s = time.perf_counter()
        elif kind is EventKind.PROGRESS:
            self._last_s = time.perf_counter()

    def warn(self, reason: str, message: str) -> None:
        """Pass over warnings."""

    def beat(self) -> None:
        """Nobody watches over it."""

    def wish(self) -> Wish | None:
        """Nobody wants it to end."""
        return None
