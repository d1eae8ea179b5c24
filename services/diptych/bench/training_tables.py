"""What the measurement of training looks like: a table for people, one JSON object for programs."""

import statistics
from dataclasses import asdict
from typing import Any

from rich.table import Table

from diptych.bench.tables import judged, plain_table
from diptych.bench.training_speed import MIN_OVER_ENCODING, MIN_OVER_REMEMBERED, TrainingSpeed

__all__ = ["training_as_json", "training_table"]


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
