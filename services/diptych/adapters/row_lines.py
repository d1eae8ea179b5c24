"""Which sets of a bank the rows of a batch use, and what that makes of each layer.

On a CPU every row computes with its own set's ranks, whatever else is in the batch: rows whose
ranks share a bucket are multiplied together, and what a row gets does not depend on the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diptych.adapters.binding import MAX_BOUND_RANK
from diptych.kernels.low_rank import Factors, RowTensors, Window

__all__ = [
    "RANK_BUCKETS",
    "Gathered",
    "Group",
    "Layer",
    "Lines",
    "RowLines",
    "RowUses",
    "bucket_of",
]

RANK_BUCKETS: Final = (8, 16, 32, 64, 128, 256, MAX_BOUND_RANK)
"""Ranks that batches are padded to; one adapter alone has at most 128."""
_REMEMBERED_BYTES: Final = 64 * 2**20
"""Gathered factors that one batch keeps; a larger network's are gathered at every forward."""


def bucket_of(rank: int) -> int:
    """Return the smallest bucket that holds ``rank``; beyond the last, a multiple of it."""
    largest = RANK_BUCKETS[-1]
    multiple = -(-rank // largest) * largest
    return next((bucket for bucket in RANK_BUCKETS if bucket >= rank), multiple)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One wrapped layer's place in a bank."""

    name: str
    weight: Tensor
    bias: Tensor | None
    window: Window | None
    """How it slides, of a convolution; None of a linear map."""
    columns: slice
    """Of the bank's table: ``down`` first, then ``up``."""
    factors: Factors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """A set that lies in a bank; valid until it is freed."""

    numbers: tuple[int, ...]
    packed_columns: tuple[slice, ...]
    ranks: Mapping[str, int]
    out_gains: frozenset[str]
    in_gains: frozenset[str]

    @property
    def rank(self) -> int:
        """Return the largest rank of any layer."""
        return max(self.ranks.values(), default=0)

    @property
    def gain_line(self) -> int:
        """Return the line that holds its gains, 0 if it has none."""
        return self.numbers[-1] if self.out_gains or self.in_gains else 0

    def form_at(self, name: str) -> tuple[int, bool, bool]:
        """Return its rank on a layer, and whether it has gains of the outputs and the inputs."""
        return self.ranks.get(name, 0), name in self.out_gains, name in self.in_gains


RowUses = tuple[tuple[Lines, float], ...]
"""The sets one row uses, each times a scale; at most one has gains, and its scale is 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Rows whose ranks on one layer share a bucket, with their factors gathered."""

    rows: slice | Tensor | None
    """None is all rows."""
    down: Tensor
    """[b, R, in * kh * kw]"""
    up: Tensor
    """[b, R, out], scales included."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """What the rows of one batch add to one layer."""

    groups: tuple[Group, ...]
    out_gains: Tensor | None
    """[B, out]"""
    in_gains: Tensor | None
    """[B, in]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PlannedGroup:
    """Rows whose ranks on one layer share a bucket, and the lines they take of its factors."""

    rows: slice | Tensor | None
    """None is all rows."""
    numbers: Tensor
    """[b * R]"""
    scales: Tensor
    """[b, R, 1]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """Which lines the rows of one batch take of a layer; the same for all layers that are alike."""

    groups: tuple[_PlannedGroup, ...]
    out_gains: Tensor | None
    """[B]"""
    in_gains: Tensor | None
    """[B]"""


@dataclass(slots=True, kw_only=True, eq=False)
class RowLines:
    """The sets that the rows of one batch use, as a value; ``Bank.select`` makes it.

    It remembers what it gathered, so keep it while the same rows come again, and drop it before
    one of its sets is freed.
    """

    uses: tuple[RowUses, ...]
    tensors: RowTensors
    """The same for a compiled forward or a kernel."""
    _sets: tuple[Lines, ...] = field(init=False)
    _plans: dict[tuple[object, ...], _Plan | None] = field(default_factory=dict)
    _memory: dict[str, Gathered | None] = field(default_factory=dict)
    _room_bytes: int = _REMEMBERED_BYTES

    def __post_init__(self) -> None:
        self._sets = tuple({lines: None for uses in self.uses for lines, _ in uses})

    @property
    def shape(self) -> tuple[int, int, bool, bool]:
        """Return what compiled forwards depend on: rows, ranks, and which gains there are."""
        lines, _, out_gains, in_gains = self.tensors
        return (*lines.shape, out_gains is not None, in_gains is not None)

    def at(self, layer: Layer) -> Gathered | None:
        """Return what the rows add to ``layer``; None if nothing."""
        if layer.name in self._memory:
            return self._memory[layer.name]
        plan = self._plan(layer)
        found = None if plan is None else _gather(layer, plan)
        size_bytes = 0 if found is None else _size_bytes(found)
        if size_bytes <= self._room_bytes:
            self._memory[layer.name] = found
            self._room_bytes -= size_bytes
        return found

    def _plan(self, layer: Layer) -> _Plan | None:
        """Return the plan for ``layer``, made once for all layers that every set treats alike."""
        alike = tuple(lines.form_at(layer.name) for lines in self._sets)
        if alike not in self._plans:
            self._plans[alike] = _make_plan(layer, self.uses)
        return self._plans[alike]


def _make_plan(layer: Layer, rows: Sequence[RowUses]) -> _Plan | None:
    """Return which lines ``rows`` take of ``layer``; None if none."""
    by_bucket: dict[int, list[int]] = {}
    for row, uses in enumerate(rows):
        rank = sum(lines.ranks.get(layer.name, 0) for lines, _ in uses)
        if rank > 0:
            by_bucket.setdefault(bucket_of(rank), []).append(row)
    out_lines = [_gain_line(uses, layer.name, outputs=True) for uses in rows]
    in_lines = [_gain_line(uses, layer.name, outputs=False) for uses in rows]
    if not by_bucket and not any(out_lines) and not any(in_lines):
        return None
    device = layer.weight.device
    return _Plan(
        groups=tuple(_plan_group(layer, rows, *item) for item in sorted(by_bucket.items())),
        out_gains=torch.tensor(out_lines, device=device) if any(out_lines) else None,
        in_gains=torch.tensor(in_lines, device=device) if any(in_lines) else None,
    )


def _gain_line(uses: RowUses, name: str, *, outputs: bool) -> int:
    """Return the line of a row's gains on one layer, 0 for none."""
    for lines, _ in uses:
        if name in (lines.out_gains if outputs else lines.in_gains):
            return lines.gain_line
    return 0


def _plan_group(
    layer: Layer, rows: Sequence[RowUses], bucket: int, chosen: list[int]
) -> _PlannedGroup:
    """Return the lines of the rows ``chosen``, each padded with line 0 to ``bucket``."""
    numbers = np.zeros((len(chosen), bucket), dtype=np.int64)
    scales = np.zeros((len(chosen), bucket, 1), dtype=np.float32)
    for place, row in enumerate(chosen):
        start = 0
        for lines, scale in rows[row]:
            stop = start + lines.ranks.get(layer.name, 0)
            numbers[place, start:stop] = lines.numbers[: stop - start]
            scales[place, start:stop] = scale
            start = stop
    device = layer.weight.device
    return _PlannedGroup(
        rows=_row_selector(chosen, len(rows), device),
        numbers=torch.from_numpy(numbers.ravel()).to(device),
        scales=torch.from_numpy(scales).to(layer.factors.up),
    )


def _gather(layer: Layer, plan: _Plan) -> Gathered:
    """Return what a plan's lines are in ``layer``."""
    down, up, _ = layer.factors
    num_inputs = layer.weight.shape[1]
    out_gains, in_gains = plan.out_gains, plan.in_gains
    return Gathered(
        groups=tuple(_gather_group(layer, group) for group in plan.groups),
        out_gains=None if out_gains is None else up.index_select(0, out_gains),
        in_gains=None if in_gains is None else down[:, :num_inputs].index_select(0, in_gains),
    )


def _gather_group(layer: Layer, group: _PlannedGroup) -> Group:
    down, up, _ = layer.factors
    shape = (*group.scales.shape[:2], -1)
    return Group(
        rows=group.rows,
        down=down.index_select(0, group.numbers).view(shape),
        up=up.index_select(0, group.numbers).view(shape).mul_(group.scales),
    )


def _row_selector(chosen: list[int], num_rows: int, device: torch.device) -> slice | Tensor | None:
    """Return what selects ``chosen``, as a view where they lie together."""
    if len(chosen) == num_rows:
        return None
    if chosen[-1] - chosen[0] == len(chosen) - 1:
        return slice(chosen[0], chosen[-1] + 1)
    return torch.tensor(chosen, device=device)


def _size_bytes(gathered: Gathered) -> int:
    tensors = [t for group in gathered.groups for t in (group.down, group.up)]
    tensors += [t for t in (gathered.out_gains, gathered.in_gains) if t is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
