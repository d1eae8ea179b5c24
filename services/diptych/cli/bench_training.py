"""``diptych bench training``."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, batch_sizes, fail_unless, show
from diptych.cli.report import Report, reporting
from diptych.errors import FieldViolation, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diptych.bench.training_device import DeviceCase

__all__ = ["bench_training"]

Architecture = Annotated[
    str | None,
    typer.Option("--architecture", help="Measure steps of sdxl or nano on a device instead."),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda.")]
Batches = Annotated[str, typer.Option("--batches", help="Of LoRAs, with --architecture.")]
FullBatches = Annotated[
    str,
    typer.Option("--full-batches", help="Of all weights, recomputing blocks, with --architecture."),
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile our blocks, with --architecture.")
]
Plain = Annotated[
    bool, typer.Option("--plain/--no-plain", help="Measure diffusers' loop beside ours.")
]


_OF_DEVICES: Final = ("device", "batches", "full_batches", "compiled", "plain")
_OF_JOBS: Final = ("steps", "batch", "pictures", "repeats")


def bench_training(
    context: typer.Context,
    *,
    steps: Annotated[int, typer.Option("--steps", min=2)] = 60,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=128)] = 16,
    pictures: Annotated[int, typer.Option("--pictures", min=1)] = 64,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 5,
    architecture: Architecture = None,
    device: Device = None,
    batches: Batches = "1,4,8",
    full_batches: FullBatches = "1",
    compiled: Compiled = False,
    plain: Plain = True,
    json_path: JsonPath = None,
) -> None:
    """Train a LoRA of the nano model as a job does, and in the plain loop of diffusers' scripts.

    With --architecture: seconds, memory and the share of what the device can multiply of steps
    with SDXL's real size and random weights, or the nano model's.
    """
    with reporting(as_json=False) as report:
        _refuse_unheeded(context, _OF_DEVICES if architecture is None else _OF_JOBS)
        need_extra("benchmarking")
        if architecture is not None:
            where = device or ("cuda" if architecture == "sdxl" else "cpu")
            cases = _device_cases(batches, full_batches, rank=rank, compiled=compiled)
            _measure_device(report, architecture, where, cases, plain, json_path)
            return
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


def _refuse_unheeded(context: typer.Context, names: tuple[str, ...]) -> None:
    """Refuse options that were given and that the kind of benchmark has no use for.

    Raises:
        InvalidRequest: There are such.
    """
    options = {one.name: one.opts[0] for one in context.command.params if one.name in names}
    given = [
        option
        for name, option in options.items()
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    why = "needs --architecture" if names is _OF_DEVICES else "does not go with --architecture"
    if given:
        raise InvalidRequest([FieldViolation(field=one, description=why) for one in given])


def _device_cases(
    batches: str, full_batches: str, *, rank: int, compiled: bool
) -> "list[DeviceCase]":
    from diptych.bench.training_device import DeviceCase

    cases = [
        DeviceCase(method="lora", batch_size=size, rank=rank, compile=compiled)
        for size in batch_sizes(batches)
    ]
    cases += [
        DeviceCase(method="full", batch_size=size, compile=compiled, gradient_checkpointing=True)
        for size in batch_sizes(full_batches, option="--full-batches")
    ]
    return cases


def _measure_device(
    report: Report,
    architecture: str,
    device: str,
    cases: "Sequence[DeviceCase]",
    plain: bool,
    json_path: Path | None,
) -> None:
    from diptych.bench.steps import check_architecture
    from diptych.bench.training_device import DeviceCost, measure_device
    from diptych.bench.training_tables import device_as_json, device_line, device_table

    check_architecture(architecture, random_weights=True, device=device)

    def tell(cost: DeviceCost) -> None:
        report.say(device_line(cost))  # a run that is cut short has told as much
        bar.advance()

    with closing(Bar(report, "cases")) as bar:
        found = measure_device(architecture, cases, device=device, plain=plain, progress=tell)
    show(report, device_table(found), device_as_json(found), json_path)
