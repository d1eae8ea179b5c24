"""The whole comparison runs, and every promise must hold."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.bench.throughput import Pairs
from diptych.bench.training_reference import PlainConfig
from diptych.bench.training_speed import TrainingSpeed, TrainingSpeedConfig, measure_training


def pairs(theirs_s: float) -> Pairs:
    return Pairs(ours_s=(1.0,), theirs_s=(theirs_s,))


@pytest.mark.parametrize(
    ("encoding", "remembered", "holds"),
    [(1.5, 1.0, True), (1.4, 1.1, False), (1.6, 0.9, False)],
)
def test_every_promise_must_hold(encoding: float, remembered: float, holds: bool) -> None:
    found = TrainingSpeed(
        config=TrainingSpeedConfig(),
        encoding=pairs(encoding),
        remembered=pairs(remembered),
        warm_s=(2.0, 1.0),
    )
    assert found.holds is holds


def test_the_whole_comparison_runs(tmp_path: Path) -> None:
    config = TrainingSpeedConfig(
        plain=PlainConfig(num_steps=2, batch_size=2, rank=2), num_pictures=4, repeats=1
    )
    done: list[int] = []
    found = measure_training(
        config,
        folder=tmp_path,
        progress=lambda: done.append(1),
        make_executor=lambda: ThreadPoolExecutor(1),
    )
    assert (done, found.num_images, len(found.warm_s)) == ([1], 4, 2)
    assert min(found.encoding.ratio, found.remembered.ratio, *found.warm_s) > 0
