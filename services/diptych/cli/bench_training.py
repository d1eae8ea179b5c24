"""``diptych bench training``."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, fail_unless, show
from diptych.cli.report import reporting

__all__ = ["bench_training"]


def bench_training(
    *,
    steps: Annotated[int, typer.Option("--steps", min=2)] = 60,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=128)] = 16,
    pictures: Annotated[int, typer.Option("--pictures", min=1)] = 64,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 5,
    json_path: JsonPath = None,
) -> None:
    """Train a LoRA of the nano model as a job does, and in the plain loop of diffusers' scripts."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from diptych.bench.training_reference import PlainConfig
        from diptych.bench.training_speed import TrainingSpeedConfig, measure_training
        from diptych.bench.training_tables import training_as_json, training_table

        config = TrainingSpeedConfig(
            plain=PlainConfig(num_steps=steps, batch_size=batch, rank=rank),
            num_pictures=pictures,
            repeats=repeats,
        )
        with (
            TemporaryDirectory(prefix="diptych-bench-") as folder,
            closing(Bar(report, "repeats")) as bar,
        ):
            found = measure_training(config, folder=Path(folder), progress=bar.advance)
        show(report, training_table(found), training_as_json(found), json_path)
        fail_unless(found.holds)
