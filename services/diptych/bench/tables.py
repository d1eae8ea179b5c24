"""What the measurements look like: a table for people, one JSON object for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.concurrency import MAX_DIFFERENCE, Independence
from diptych.bench.expert_merge import MAX_PEAK_BYTES, ExpertMergeReport
from diptych.bench.memory import MAX_GROWTH, Memory
from diptych.bench.merge import MIN_SPEEDUP, MergeReport
from diptych.bench.parity import MAX_LATENT_DIFFERENCE, MIN_EQUAL_PIXELS, Parity
from diptych.bench.steps import StepsReport
from diptych.bench.throughput import (
    MAX_LATENCY_RATIO,
    MAX_OVERHEAD,
    MIN_THROUGHPUT_RATIO,
    Throughput,
)

__all__ = [
    "as_json",
    "expert_merge_table",
    "independence_table",
    "judged",
    "memory_table",
    "merge_table",
    "parity_table",
    "plain_table",
    "steps_table",
    "throughput_table",
]

Measured = Throughput | StepsReport | Memory | Independence | MergeReport


def as_json(measured: Measured) -> dict[str, Any]:
    """Return a measurement's numbers and what follows from them."""
    derived: dict[str, Any] = {}
    if isinstance(measured, Throughput):
        derived = {
            "throughput_ratio": measured.many.ratio,
            "latency_ratio": measured.latency_ratio,
            "overhead": measured.overhead,
        }
    elif isinstance(measured, StepsReport):
        derived = {
            "images_per_s": {p.name: p.images_per_s for p in measured.paintings},
            "over_diffusers": {p.name: p.ratio for p in measured.paintings},
        }
    elif isinstance(measured, Memory):
        derived = {"growth": measured.growth}
    elif isinstance(measured, MergeReport):
        derived = {"speedup": {one.method: one.speedup for one in measured.methods}}
    else:
        derived = {"largest": measured.largest}
    if not isinstance(measured, StepsReport):
        derived["holds"] = measured.holds
    return asdict(measured) | derived


def throughput_table(found: Throughput) -> Table:
    """Return the serving table of docs/benchmarks.md."""
    table = plain_table("", "diffusers", "Diptych", "ratio", "required")
    many, single, bare = found.many, found.single, found.bare
    count = found.num_requests
    table.add_row(
        f"{count} mixed requests, pictures/s",
        f"{count / many.median_theirs_s:.2f}",
        f"{count / many.median_ours_s:.2f}",
        judged(f"{many.ratio:.2f}x", good=many.ratio >= MIN_THROUGHPUT_RATIO),
        f">= {MIN_THROUGHPUT_RATIO}x",
    )
    table.add_row(
        "one request, seconds",
        f"{single.median_theirs_s:.3f}",
        f"{single.median_ours_s:.3f}",
        judged(f"{found.latency_ratio:.2f}x", good=found.latency_ratio <= MAX_LATENCY_RATIO),
        f"<= {MAX_LATENCY_RATIO}x",
    )
    table.add_row(
        "gRPC and engine beside the networks (plain loop), seconds",
        f"{bare.median_theirs_s:.3f}",
        f"{bare.median_ours_s:.3f}",
        judged(f"{found.overhead:+.1%}", good=found.overhead < MAX_OVERHEAD),
        f"< {MAX_OVERHEAD:.0%}",
    )
    return table


def steps_table(found: StepsReport) -> Table:
    """Return the batch curve and the pictures, in one table."""
    table = plain_table(
        f"{found.architecture}, {found.dtype}, {found.device}",
        "images",
        "seconds",
        "images/s",
        "diffusers, images/s",
        f"of {found.ceiling_flops / 1e12:.2f} TFLOP/s",
    )
    for curve in found.curves:
        table.add_row(
            f"{curve.expert} step, guided",
            str(curve.num_images),
            f"{curve.step_s:.4f}",
            f"{curve.num_images / curve.step_s:.1f}",
            "",
            f"{curve.ceiling_share:.1%}",
        )
    for painting in found.paintings:
        table.add_row(
            painting.name,
            str(painting.num_images),
            f"{painting.seconds:.3f}",
            f"{painting.images_per_s:.3f}",
            "" if painting.theirs_s is None else f"{1 / painting.theirs_s:.3f}",
            "" if painting.ratio is None else f"{painting.ratio:.2f}x",
        )
    return table


def parity_table(found: Sequence[Parity]) -> Table:
    """Return one line per recipe."""
    latents, pixels = f"max |latents| <= {MAX_LATENT_DIFFERENCE:g}", f">= {MIN_EQUAL_PIXELS:.1%}"
    table = plain_table("recipe", latents, f"pixels within 1/255 {pixels}", "")
    for one in found:
        table.add_row(
            one.name,
            f"{one.latent_difference:.1e}",
            f"{one.equal_pixels:.3%}",
            judged("equal" if one.holds else "differs", good=one.holds),
        )
    return table


def memory_table(found: Memory) -> Table:
    """Return what is left of memory and slots."""
    table = plain_table("", "before", "after", "", "required")
    table.add_row(
        f"resident MiB, {found.num_requests} requests",
        f"{found.before_bytes / 2**20:.1f}",
        f"{found.after_bytes / 2**20:.1f}",
        judged(f"{found.growth:+.2%}", good=found.growth < MAX_GROWTH),
        f"< {MAX_GROWTH:.0%}",
    )
    kept = found.slots_free == found.num_slots
    table.add_row(
        f"free slots, {found.num_cancelled} cancelled",
        str(found.num_slots),
        str(found.slots_free),
        judged("none leaked" if kept else "leaked", good=kept),
        "all",
    )
    return table


def independence_table(found: Independence) -> Table:
    """Return the largest difference over all requests."""
    table = plain_table("", "max |latents|", "required")
    table.add_row(
        f"{len(found.differences)} unlike requests at once, against each alone",
        judged(f"{found.largest:.1e}", good=found.holds),
        f"<= {MAX_DIFFERENCE:g}",
    )
    return table


def expert_merge_table(found: ExpertMergeReport) -> Table:
    """Return what a merge of full experts took."""
    name = f"{found.method} of {found.num_experts} {found.architecture} experts"
    table = plain_table(name, "measured", "required")
    peak = f"{found.spent.peak_bytes / 2**30:.2f}"
    limit = f"<= {MAX_PEAK_BYTES / 2**30:g}"
    table.add_row("peak resident memory, GiB", judged(peak, good=found.holds), limit)
    table.add_row("one UNet on disk, GiB", f"{found.unet_bytes / 2**30:.2f}", "")
    table.add_row("seconds", f"{found.spent.seconds:.0f}", "")
    return table


def merge_table(found: MergeReport) -> Table:
    """Return two lines per method: seconds and memory of both sides, and their errors."""
    table = plain_table(
        f"{found.num_adapters} adapters of rank {found.rank}, {found.num_layers} layers",
        "PEFT",
        "Diptych",
        "ratio",
        "required",
    )
    for one in found.methods:
        table.add_row(
            f"{one.method}, seconds",
            f"{one.theirs.seconds:.1f}",
            f"{one.ours.seconds:.1f}",
            judged(f"{one.speedup:.1f}x", good=one.speedup >= MIN_SPEEDUP),
            f">= {MIN_SPEEDUP:g}x",
        )
        table.add_row(
            f"{one.method}, error in float64",
            f"{one.theirs.error:.7f}",
            f"{one.ours.error:.7f}",
            judged("as near" if one.is_as_near else "further", good=one.is_as_near),
            "as near",
        )
        table.add_row(
            f"{one.method}, above the least error of the rank",
            f"{one.theirs.excess:.1e}",
            f"{one.ours.excess:.1e}",
        )
        table.add_row(
            f"{one.method}, error against the plain sum",
            f"{one.theirs.sum_error:.4f}",
            f"{one.ours.sum_error:.4f}",
        )
        table.add_row(
            f"{one.method}, peak MiB of a layer",
            f"{one.theirs.peak_bytes / 2**20:.0f}",
            f"{one.ours.peak_bytes / 2**20:.0f}",
        )
    return table


def plain_table(first: str, *others: str) -> Table:
    """Return an empty table whose columns but the first are aligned right."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def judged(text: str, *, good: bool) -> str:
    """Return ``text`` in green, or in red where a promise is broken."""
    return f"[green]{text}[/]" if good else f"[bold red]{text}[/]"
