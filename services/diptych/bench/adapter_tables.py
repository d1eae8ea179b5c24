"""What the measurements of adapters look like: a table for people, one JSON object for programs."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.adapter_churn import Churn
from diptych.bench.adapter_device import MAX_ATTACH_S, MAX_COLD_S, MAX_MIXED_RATIO, AdapterDevice
from diptych.bench.adapter_parity import MAX_ADAPTED_DIFFERENCE, AdapterParity
from diptych.bench.adapter_speed import (
    MAX_BATCH_RATIO,
    MIN_OVER_LOADING,
    MIN_OVER_RESIDENT,
    AdapterSpeed,
)
from diptych.bench.memory import MAX_GROWTH
from diptych.bench.tables import judged, plain_table

__all__ = [
    "adapters_as_json",
    "churn_table",
    "device_table",
    "parity_of_adapters_table",
    "speed_table",
]

Measured = AdapterParity | Churn | AdapterSpeed | AdapterDevice


def adapters_as_json(measured: Measured) -> dict[str, Any]:
    """Return a measurement's numbers and what follows from them."""
    derived: dict[str, Any] = {}
    if isinstance(measured, AdapterDevice):
        return asdict(measured) | {
            "mixed_ratio": measured.mixed_ratio,
            "switch_s": measured.switch_s,
        }
    if isinstance(measured, AdapterParity):
        derived = {"largest": max(one.difference for one in measured.sets)}
    elif isinstance(measured, Churn):
        derived = {"growth": measured.growth}
    else:
        derived = {
            "batch_ratios": measured.batch_ratios,
            "over_resident": measured.resident.ratio,
            "over_loading": measured.loading.ratio,
        }
    return asdict(measured) | derived | {"holds": measured.holds}


def parity_of_adapters_table(found: AdapterParity) -> Table:
    """Return one line per set, and how many of them one batch held."""
    table = plain_table(
        "adapters of one request",
        "against",
        f"max |latents| <= {MAX_ADAPTED_DIFFERENCE:g}",
        "",
        "they change",
    )
    for one in found.sets:
        table.add_row(
            one.title,
            one.against,
            f"{one.difference:.1e}",
            judged("equal" if one.holds else "differs", good=one.holds),
            f"{one.effect:.2f}",
        )
    tick = found.largest_tick
    met = tick.num_adapter_sets == len(found.sets)
    table.add_row(
        "unlike sets in one tick",
        "",
        judged(f"{tick.num_adapter_sets} of {len(found.sets)}", good=met),
        f"{tick.num_rows} rows",
    )
    return table


def churn_table(found: Churn) -> Table:
    """Return what the operations left of weights, memory, slots and lines."""
    table = plain_table(f"{found.num_operations} operations", "before", "after", "", "required")
    for name, kept in (("weights", found.weights_kept), ("a picture", found.picture_kept)):
        table.add_row(
            f"{name}, bit for bit", "", "", judged("same" if kept else "changed", good=kept), "same"
        )
    table.add_row(
        "resident MiB",
        f"{found.before_bytes / 2**20:.1f}",
        f"{found.after_bytes / 2**20:.1f}",
        judged(f"{found.growth:+.2%}", good=found.growth < MAX_GROWTH),
        f"< {MAX_GROWTH:.0%}",
    )
    for name, before, after in (
        ("free slots", found.num_slots, found.slots_free),
        ("usable lines", found.num_lines, found.lines_usable),
    ):
        kept = after == before
        table.add_row(
            name, str(before), str(after), judged("all" if kept else "lost", good=kept), "all"
        )
    none = found.num_graphs == 0
    table.add_row("graphs compiled", "", "", judged(str(found.num_graphs), good=none), "0")
    for kind, count in {**found.counts, **found.refused}.items():
        table.add_row(f"  {kind}", "", str(count))
    return table


def speed_table(found: AdapterSpeed) -> Table:
    """Return the ratios on the nano pair."""
    own = found.config
    table = plain_table("", "without, or diffusers", "Diptych", "ratio", "required")
    for layers, pairs in found.batches.items():
        ratio = found.batch_ratios[layers]
        table.add_row(
            f"{own.num_images} images, each its own rank {own.rank} of {layers}, seconds",
            f"{pairs.median_theirs_s:.2f}",
            f"{pairs.median_ours_s:.2f}",
            judged(f"{ratio:.2f}x", good=ratio <= MAX_BATCH_RATIO),
            f"<= {MAX_BATCH_RATIO}x",
        )
    steps = str(own.request_steps or "12 to 30")
    for how, pairs, least in (
        ("set_adapters", found.resident, MIN_OVER_RESIDENT),
        ("load and unload", found.loading, MIN_OVER_LOADING),
    ):
        table.add_row(
            f"{own.num_requests} requests of {steps} steps over {own.num_adapters}, {how}, per s",
            f"{own.num_requests / pairs.median_theirs_s:.2f}",
            f"{own.num_requests / pairs.median_ours_s:.2f}",
            judged(f"{pairs.ratio:.2f}x", good=pairs.ratio >= least),
            f">= {least:g}x",
        )
    return table


def device_table(found: AdapterDevice) -> Table:
    """Return what adapters cost on one device."""
    own = found.config
    table = plain_table(
        f"{found.architecture}, {found.dtype}, {found.device}, rank {own.rank}",
        "without",
        "with",
        "",
        "required on a GPU",
    )
    good = found.mixed_ratio <= MAX_MIXED_RATIO
    table.add_row(
        f"step of {own.num_images} images, each its own, ms",
        f"{found.plain_step_s * 1e3:.1f}",
        f"{found.mixed_step_s * 1e3:.1f}",
        judged(f"{found.mixed_ratio:.2f}x", good=good),
        f"<= {MAX_MIXED_RATIO}x",
    )
    for name, seconds, limit_s in (
        ("switch to others on the device, ms", found.switch_s, None),
        ("from the host to the device, ms", found.attach_s, MAX_ATTACH_S),
        ("from a file to the device, ms", found.cold_s, MAX_COLD_S),
    ):
        text = f"{seconds * 1e3:.1f}"
        table.add_row(
            name,
            "",
            text if limit_s is None else judged(text, good=seconds <= limit_s),
            "",
            "0" if limit_s is None else f"<= {limit_s * 1e3:g}",
        )
    recorded = judged(str(found.num_recorded), good=found.num_recorded == 0)
    table.add_row("graphs recorded meanwhile", "", recorded, "", "0")
    return table
