"""``diptych bench cache``."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, fail_unless, show
from diptych.cli.report import reporting
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["bench_cache"]


def bench_cache(
    *,
    entries: Annotated[
        int, typer.Option("--entries", min=1, help="Written and read by each way; 10000 are 12 GB.")
    ] = 10_000,
    slices: Annotated[
        int, typer.Option("--slices", min=1, help="Parts in which the ways take turns.")
    ] = 5,
    s3_entries: Annotated[
        int, typer.Option("--s3-entries", min=0, help="To and from a bucket; 0 leaves it out.")
    ] = 500,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="On the disk to measure; else the temporary.")
    ] = None,
    json_path: JsonPath = None,
) -> None:
    """Keep embeddings of SDXL's size as packs, as SimpleTuner does, and as safetensors files.

    Writes, cold reads against the disk's own speed, bytes, hits in memory and over gRPC; then S3.
    """
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        if entries < slices:
            problem = f"expected at least one entry a slice, not {entries} in {slices}"
            raise InvalidRequest([FieldViolation(field="--entries", description=problem)])
        from diptych.bench.cache_loopback import measure_loopback
        from diptych.bench.cache_s3 import measure_s3, s3_server
        from diptych.bench.cache_storage import measure_storage
        from diptych.bench.cache_tables import (
            cache_as_json,
            loopback_table,
            s3_table,
            storage_table,
        )

        with TemporaryDirectory(dir=folder) as made, closing(Bar(report, "slices")) as bar:
            found = measure_storage(
                Path(made), num_entries=entries, num_slices=slices, progress=bar.advance
            )
        with TemporaryDirectory() as made, report.waiting("calling a server"):
            over = measure_loopback(Path(made))
        on_s3 = []
        if s3_entries:
            with s3_server() as url, report.waiting("talking to S3"):
                on_s3 = [
                    measure_s3(url, num_entries=s3_entries, is_small=is_small, repeats=3)
                    for is_small in (False, True)
                ]
        report.out.print(storage_table(found))
        report.out.print(loopback_table(over))
        show(report, s3_table(on_s3), cache_as_json(found, over, on_s3), json_path)
        fail_unless(found.holds and over.holds and all(one.holds for one in on_s3))
