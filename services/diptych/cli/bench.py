"""``diptych bench``: measure against what one would use instead, in one run."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.bench_adapters import (
    bench_adapter_churn,
    bench_adapter_parity,
    bench_adapters,
)
from diptych.cli.bench_cache import bench_cache
from diptych.cli.bench_training import bench_training
from diptych.cli.bench_training_faults import bench_training_faults
from diptych.cli.embedded import need_extra
from diptych.cli.measuring import Bar, JsonPath, batch_sizes, counted, fail_unless, show
from diptych.cli.report import Report, reporting
from diptych.errors import ExtraMissing

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure against diffusers, in one run.")
app.command("adapters")(bench_adapters)
app.command("adapter-parity")(bench_adapter_parity)
app.command("adapter-churn")(bench_adapter_churn)
app.command("cache")(bench_cache)
app.command("training")(bench_training)
app.command("training-faults")(bench_training_faults)


@app.command("inference")
def bench_inference(
    *,
    requests: Annotated[int, typer.Option("--requests", min=1)] = 32,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 5,
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", help="Measure steps of sdxl or nano instead of serving."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Weights cost the same whatever they are.")
    ] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    batches: Annotated[
        str, typer.Option("--batches", help="Images that step together, with --architecture.")
    ] = "1,2,4,8,16",
    json_path: JsonPath = None,
) -> None:
    """Serve mixed requests against diffusers' two pipelines called one after another.

    With --architecture: seconds per step by batch size, whole pictures, and the share of what
    the device can multiply.
    """
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        if architecture is None:
            _measure_serving(report, requests, repeats, json_path)
            return
        from diptych.bench.random_weights import SCHEDULE
        from diptych.bench.reference import Reference
        from diptych.bench.steps import StepsConfig, load_architecture, measure_steps
        from diptych.bench.tables import as_json, steps_table

        chosen = device or ("cuda" if architecture == "sdxl" else "cpu")
        config = StepsConfig(
            architecture=architecture, batches=batch_sizes(batches), repeats=repeats
        )
        experts = load_architecture(architecture, random_weights=random_weights, device=chosen)
        with report.waiting(f"measuring {architecture} on {chosen}"):
            found = measure_steps(experts, config, Reference.of(experts, SCHEDULE))
        show(report, steps_table(found), as_json(found), json_path)


@app.command("parity")
def bench_parity(
    *,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 40,
    json_path: JsonPath = None,
) -> None:
    """Paint with the server and with stock diffusers and compare latents and pixels."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from dataclasses import asdict, replace

        from diptych.bench.parity import (
            compare,
            compare_refined,
            compare_schedules,
            parity_recipes,
        )
        from diptych.bench.recipes import SEED_RECIPE
        from diptych.bench.reference import Reference
        from diptych.bench.serving import serving
        from diptych.bench.steps import load_architecture
        from diptych.bench.tables import parity_table
        from diptych.nano.pair import expert_path

        reference = Reference.load(expert_path("base"), expert_path("refiner"))
        recipes = list(parity_recipes(num_steps=steps))
        with serving() as server:
            found = [
                compare(server.client, reference, name, recipe)
                for name, recipe in counted(report, recipes, "painting with both")
            ]
            recipe = replace(SEED_RECIPE, num_steps=steps)
            found.append(compare_refined(server.client, reference, recipe, strength=0.35))
        experts = load_architecture("nano", random_weights=False, device="cpu")
        found += compare_schedules(experts, reference, num_steps=steps)
        answer = {"recipes": [asdict(one) | {"holds": one.holds} for one in found]}
        show(report, parity_table(found), answer, json_path)
        fail_unless(all(one.holds for one in found))


@app.command("concurrency")
def bench_concurrency(
    *,
    requests: Annotated[int, typer.Option("--requests", min=2)] = 24,
    json_path: JsonPath = None,
) -> None:
    """Paint unlike requests at once and each alone, and compare their latents."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from diptych.bench.concurrency import compare_alone
        from diptych.bench.recipes import mixed_recipes
        from diptych.bench.serving import serving
        from diptych.bench.tables import as_json, independence_table

        with serving() as server, report.waiting(f"painting {requests} at once, then alone"):
            found = compare_alone(server.client, mixed_recipes(requests))
        show(report, independence_table(found), as_json(found), json_path)
        fail_unless(found.holds)


@app.command("memory")
def bench_memory(
    *,
    requests: Annotated[int, typer.Option("--requests", min=1)] = 1000,
    cancelled: Annotated[int, typer.Option("--cancelled", min=0)] = 10_000,
    json_path: JsonPath = None,
) -> None:
    """Paint many pictures and give many requests up; look at memory and slots before and after."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from diptych.bench.memory import measure_memory
        from diptych.bench.serving import serving
        from diptych.bench.tables import as_json, memory_table

        with serving() as server, closing(Bar(report, "requests")) as bar:
            found = measure_memory(
                server, num_requests=requests, num_cancelled=cancelled, progress=bar.advance
            )
        show(report, memory_table(found), as_json(found), json_path)
        fail_unless(found.holds)


@app.command("merge")
def bench_merge(
    *,
    architecture: Annotated[
        str, typer.Option("--architecture", help="Whose attention layers: sdxl or nano.")
    ] = "sdxl",
    adapters: Annotated[int, typer.Option("--adapters", min=2, max=32)] = 4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=128)] = 16,
    density: Annotated[float, typer.Option("--density", min=0.01, max=0.99)] = 0.5,
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 3,
    json_path: JsonPath = None,
) -> None:
    """Merge random adapters by TIES and DARE-TIES, with PEFT and with us.

    Every distinct shape of layer is merged and its seconds count as often as the layer occurs.
    """
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        if find_spec("peft") is None:
            raise ExtraMissing(extra="bench", needed_for="comparing with PEFT")
        from diptych.bench.merge import MergeConfig, attention_shapes, measure_merging
        from diptych.bench.tables import as_json, merge_table

        config = MergeConfig(num_adapters=adapters, rank=rank, density=density, repeats=repeats)
        shapes = attention_shapes(architecture)
        with closing(Bar(report, "layer shapes")) as bar:
            found = measure_merging(shapes, config, architecture=architecture, progress=bar.advance)
        show(report, merge_table(found), as_json(found), json_path)
        fail_unless(found.holds)


@app.command("expert-merge")
def bench_expert_merge(
    *,
    folder: Annotated[
        Path, typer.Option("--folder", help="An empty folder with room for all of it.")
    ],
    architecture: Annotated[
        str, typer.Option("--architecture", help="sdxl or sdxl-refiner.")
    ] = "sdxl",
    method: Annotated[str, typer.Option("--method", help="As of `models merge`.")] = "ties",
    experts: Annotated[int, typer.Option("--experts", min=1, max=8)] = 2,
    json_path: JsonPath = None,
) -> None:
    """Merge random full-size experts; tell seconds and the most memory the process held."""
    with reporting(as_json=False) as report:
        need_extra("benchmarking")
        from dataclasses import asdict

        from diptych.bench.expert_merge import measure_expert_merge
        from diptych.bench.tables import expert_merge_table

        with report.waiting(f"merging {experts} experts of {architecture}"):
            found = measure_expert_merge(
                folder, architecture=architecture, method=method, num_experts=experts
            )
        answer = asdict(found) | {"holds": found.holds}
        show(report, expert_merge_table(found), answer, json_path)
        fail_unless(found.holds)


def _measure_serving(report: Report, requests: int, repeats: int, json_path: Path | None) -> None:
    from diptych.bench.direct import Direct
    from diptych.bench.recipes import mixed_recipes, single_recipe
    from diptych.bench.reference import Reference
    from diptych.bench.serving import serving
    from diptych.bench.steps import load_architecture
    from diptych.bench.tables import as_json, throughput_table
    from diptych.bench.throughput import measure_throughput
    from diptych.nano.pair import expert_path

    reference = Reference.load(expert_path("base"), expert_path("refiner"))
    direct = Direct.of(load_architecture("nano", random_weights=False, device="cpu"))
    with serving() as server, report.waiting(f"painting {requests} requests with both"):
        found = measure_throughput(
            server.client,
            reference,
            direct,
            recipes=mixed_recipes(requests),
            single=single_recipe(),
            repeats=repeats,
        )
    show(report, throughput_table(found), as_json(found), json_path)
    fail_unless(found.holds)
