"""What the measurement of training looks like: a table for people, one JSON object for programs."""

import statistics
from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.tables import judged, plain_table
from diptych.bench.training_device import DeviceCost, DeviceReport
from diptych.bench.training_speed import MIN_OVER_ENCODING, MIN_OVER_REMEMBERED, TrainingSpeed

__all__ = ["device_as_json", "device_line", "device_table", "training_as_json", "training_table"]


def training_as_json(found: TrainingSpeed) -> dict[str, Any]:
    """Return the numbers and what follows from them."""
    return asdict(found) | {
        "over_encoding": found.encoding.ratio,
        "over_remembered": found.remembered.ratio,
        "holds": found.holds,
    }


def training_table(found: TrainingSpeed) -> Table:
    """Return images per second of both sides."""
    plain, count = found.config.plain, found.num_images
    table = plain_table(
        f"LoRA of rank {plain.rank}, batch {plain.batch_size}, {plain.num_steps} steps, images/s",
        "diffusers' loop",
        "Diptych",
        "ratio",
        "required",
    )
    rows = (
        ("it encodes as it goes", found.encoding, MIN_OVER_ENCODING),
        ("it has all in memory", found.remembered, MIN_OVER_REMEMBERED),
    )
    for what, pairs, least in rows:
        table.add_row(
            what,
            f"{count / pairs.median_theirs_s:.1f}",
            f"{count / pairs.median_ours_s:.1f}",
            judged(f"{pairs.ratio:.2f}x", good=pairs.ratio >= least),
            f">= {least:g}x",
        )
    first_s, later_s = found.warm_s[0], statistics.median(found.warm_s[1:])
    table.add_row(
        "before the first step, seconds", "", f"{first_s:.1f}, then {later_s:.1f}", "", ""
    )
    return table


def device_as_json(found: DeviceReport) -> dict[str, Any]:
    """Return the numbers and what follows from them."""
    derived = [
        {
            "images_per_s": one.images_per_s,
            "ratio": one.ratio,
            "ceiling_share": one.ceiling_share,
            "mfu": one.mfu,
        }
        for one in found.costs
    ]
    return asdict(found) | {"derived": derived}


def device_table(found: DeviceReport) -> Table:
    """Return one line per case: of a step, T is 1e12 operations per second; diffusers' images/s."""
    first = found.costs[0].ours
    table = plain_table(
        f"{found.architecture}, {found.precision}, {first.device}",
        "batch",
        "ms",
        "images/s",
        "GiB",
        "MFU",
        f"of {first.ceiling_flops / 1e12:.3g} T",
        "diffusers",
        "GiB",
        "ratio",
    )
    for cost in found.costs:
        table.add_row(*_device_row(cost))
    return table


def device_line(cost: DeviceCost) -> str:
    """Return what one case costs in a line."""
    name, batch, step_ms, images, memory, mfu, _, theirs, _, ratio = _device_row(cost)
    parts = [f"{name}, batch {batch}: {step_ms} ms", f"{images} images/s", f"{memory} GiB"]
    parts += [f"MFU {mfu}"] if mfu else []
    parts += [f"diffusers' loop {theirs} images/s, {ratio}"] if theirs else []
    return ", ".join(parts)


def _device_row(cost: DeviceCost) -> tuple[str, ...]:
    case, ours, theirs = cost.case, cost.ours, cost.theirs
    name = f"LoRA {case.rank}" if case.method == "lora" else "full"
    more = (case.gradient_checkpointing, "recomputed"), (case.compile, "compiled")
    return (
        ", ".join([name, *(word for is_so, word in more if is_so)]),
        str(case.batch_size),
        f"{ours.median_s * 1e3:.1f}",
        f"{cost.images_per_s:.2f}",
        f"{ours.peak_bytes / 2**30:.1f}",
        "" if cost.mfu is None else f"{cost.mfu:.1%}",
        f"{cost.ceiling_share:.1%}",
        "" if theirs is None else f"{case.batch_size / theirs.median_s:.2f}",
        "" if theirs is None else f"{theirs.peak_bytes / 2**30:.1f}",
        "" if cost.ratio is None else f"{cost.ratio:.2f}x",
    )
