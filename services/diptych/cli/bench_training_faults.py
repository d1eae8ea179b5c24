"""``diptych bench training-faults``."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, fail_unless, show
from diptych.cli.report import reporting

__all__ = ["bench_training_faults"]


def bench_training_faults(
    *,
    jobs: Annotated[int, typer.Option("--jobs", min=1)] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Of what is broken when.")] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="Train, with a cache and S3; else workers pretend to.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Seconds after which jobs are lost.")
    ] = 3600.0,
    json_path: JsonPath = None,
) -> None:
    """Run short training jobs while their workers, owners and database are killed and cut.

    With --real the embedding cache and S3 too. Every job must end once, as it was asked to, and
    with the very result of an undisturbed run.
    """
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from diptych.bench.fault_tables import faults_as_json, faults_table
        from diptych.bench.training_faults import FaultsConfig, measure_faults

        config = FaultsConfig(num_jobs=jobs, seed=seed, is_real=real, timeout_s=timeout)
        with (
            TemporaryDirectory(prefix="diptych-bench-") as made,
            closing(Bar(report, "jobs")) as bar,
        ):
            found = measure_faults(config, Path(made), progress=bar.advance)
        show(report, faults_table(found), faults_as_json(found), json_path)
        fail_unless(found.holds)
