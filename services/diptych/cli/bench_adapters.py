"""``diptych bench adapters``, ``adapter-parity`` and ``adapter-churn``."""

import logging
import warnings
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, fail_unless, show
from diptych.cli.report import Report, reporting
from diptych.errors import ExtraMissing

if TYPE_CHECKING:
    from diptych.bench.adapter_speed import SpeedConfig

__all__ = ["bench_adapter_churn", "bench_adapter_parity", "bench_adapters"]


def bench_adapter_parity(
    *,
    steps: Annotated[int, typer.Option("--steps", min=2)] = 20,
    json_path: JsonPath = None,
) -> None:
    """Paint 16 unlike sets of adapters in one batch, and each alone with stock diffusers."""
    with reporting(as_json=False) as report:
        _need_peft()
        from diptych.bench.adapter_parity import compare_adapters
        from diptych.bench.adapter_tables import adapters_as_json, parity_of_adapters_table
        from diptych.bench.reference import Reference
        from diptych.bench.serving import serving
        from diptych.nano.pair import expert_path

        _quieten()
        reference = Reference.load(expert_path("base"), expert_path("refiner"))
        with serving() as server, closing(Bar(report, "sets")) as bar:
            found = compare_adapters(server, reference, num_steps=steps, progress=bar.advance)
        show(report, parity_of_adapters_table(found), adapters_as_json(found), json_path)
        fail_unless(found.holds)


def bench_adapter_churn(
    *,
    operations: Annotated[int, typer.Option("--operations", min=1)] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    rest: Annotated[
        float, typer.Option("--rest", min=0.0, help="Seconds of rest before each look at memory.")
    ] = 10.0,
    json_path: JsonPath = None,
) -> None:
    """Load, paint, unload, merge and delete at random; look at what is left of the server."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from diptych.bench.adapter_churn import CHURN_SETTINGS, measure_churn
        from diptych.bench.adapter_tables import adapters_as_json, churn_table
        from diptych.bench.serving import serving

        with serving(CHURN_SETTINGS) as server, closing(Bar(report, "operations")) as bar:
            found = measure_churn(
                server,
                num_operations=operations,
                seed=seed,
                rest_s=rest,
                progress=bar.advance,
            )
        show(report, churn_table(found), adapters_as_json(found), json_path)
        fail_unless(found.holds)


def bench_adapters(
    *,
    requests: Annotated[int, typer.Option("--requests", min=1)] = 64,
    steps: Annotated[
        int | None, typer.Option("--steps", min=2, help="Of each request; else from 12 to 30.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="That step together.")] = 8,
    rank: Annotated[int, typer.Option("--rank", min=1, max=128)] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 3,
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", help="Measure steps of sdxl or nano instead of serving."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Weights cost the same whatever they are.")
    ] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    json_path: JsonPath = None,
) -> None:
    """Measure a batch with adapters against one without, and serving against diffusers.

    With --architecture: a batch's step with and without adapters, and how long one takes from
    the host's memory and from a file to the device.
    """
    with reporting(as_json=False) as report:
        if architecture is None:
            _need_peft()
            from diptych.bench.adapter_speed import SpeedConfig

            own = SpeedConfig(
                num_requests=requests,
                request_steps=steps,
                num_images=images,
                rank=rank,
                repeats=repeats,
            )
            _measure_serving(report, own, json_path)
            return
        need_extra("benchmarking")
        from diptych.bench.adapter_device import DeviceConfig, measure_device
        from diptych.bench.adapter_tables import adapters_as_json, device_table
        from diptych.bench.steps import load_architecture

        chosen = device or ("cuda" if architecture == "sdxl" else "cpu")
        config = DeviceConfig(
            architecture=architecture, rank=rank, num_images=images, repeats=repeats
        )
        experts = load_architecture(architecture, random_weights=random_weights, device=chosen)
        with (
            TemporaryDirectory(prefix="diptych-bench-") as folder,
            report.waiting(f"measuring {architecture} on {chosen}"),
        ):
            measured = measure_device(experts, config, folder=Path(folder))
        show(report, device_table(measured), adapters_as_json(measured), json_path)


def _measure_serving(report: Report, config: "SpeedConfig", json_path: Path | None) -> None:
    from diptych.bench.adapter_speed import measure_adapters
    from diptych.bench.adapter_tables import adapters_as_json, speed_table
    from diptych.bench.direct import Direct
    from diptych.bench.reference import Reference
    from diptych.bench.serving import serving
    from diptych.bench.steps import load_architecture
    from diptych.nano.pair import expert_path

    _quieten()
    reference = Reference.load(expert_path("base"), expert_path("refiner"))
    direct = Direct.of(load_architecture("nano", random_weights=False, device="cpu"))
    with (
        TemporaryDirectory(prefix="diptych-bench-") as folder,
        serving() as server,
        closing(Bar(report, "repeats")) as bar,
    ):
        found = measure_adapters(
            server, reference, direct, config=config, folder=Path(folder), progress=bar.advance
        )
    show(report, speed_table(found), adapters_as_json(found), json_path)
    fail_unless(found.holds)


def _need_peft() -> None:
    need_extra("benchmarking")
    if find_spec("peft") is None:
        raise ExtraMissing(extra="bench", needed_for="comparing with adapters in diffusers")


def _quieten() -> None:
    """Keep libraries from telling at every load what a file does not hold."""
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
