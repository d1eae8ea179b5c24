"""Which sets of a bank the rows of a batch use, and what that makes of each layer.

On a CPU every row computes with its own set's ranks, whatever else is in the batch: rows whose
ranks share a bucket are multiplied together, and what a row gets does not depend on the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.binding import MAX_BOUND_RANK
from diptych.kernels.low_rank import Factors, RowTensors, Window

__all__ = ["RANK_BUCKETS", "Gathered", "Group", "Layer", "Lines", "RowLines", "bucket_of"]

RANK_BUCKETS: Final = (8, 16, 32, 64, 128, 256, MAX_BOUND_RANK)
"""Ranks that batches are padded to; one adapter alone has at most 128."""
_REMEMBERED_BYTES: Final = 64 * 2**20
"""Gathered factors that one batch keeps; a larger network's are gathered at every forward."""


def bucket_of(rank: int) -> int:
    """Return the smallest bucket that holds ``rank``."""
    return next(bucket for bucket in RANK_BUCKETS if bucket >= rank)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Rows whose ranks on one layer share a bucket, with their factors gathered."""

    rows: slice | Tensor | None
    """None is all rows."""
    down: Tensor
    """[b, R, in * kh * kw]"""
    up: Tensor
    """[b, R, out]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """What the rows of one batch add to one layer."""

    groups: tuple[Group, ...]
    out_gains: Tensor | None
    """[B, out]"""
    in_gains: Tensor | None
    """[B, in]"""


@dataclass(slots=True, kw_only=True, eq=False)
class RowLines:
    """The sets that the rows of one batch use, as a value; ``Bank.select`` makes it.

    It remembers what it gathered, so keep it while the same rows come again, and drop it before
    one of its sets is freed.
    """

    lines: tuple[Lines | None, ...]
    tensors: RowTensors
    """The same for a compiled forward or a kernel."""
    _memory: dict[str, Gathered | None] = field(default_factory=dict)
    _room_bytes: int = _REMEMBERED_BYTES

    def at(self, layer: Layer) -> Gathered | None:
        """Return what the rows add to ``layer``; None if nothing."""
        if layer.name in self._memory:
            return self._memory[layer.name]
        found = _gather(layer, self.lines)
        size_bytes = 0 if found is None else _size_bytes(found)
        if size_bytes <= self._room_bytes:
            self._memory[layer.name] = found
            self._room_bytes -= size_bytes
        return found


def _gather(layer: Layer, rows: Sequence[Lines | None]) -> Gathered | None:
    """Return what ``rows`` add to ``layer``; None if nothing."""
    by_bucket: dict[int, list[int]] = {}
    for row, lines in enumerate(rows):
        rank = 0 if lines is None else lines.ranks.get(layer.name, 0)
        if rank > 0:
            by_bucket.setdefault(bucket_of(rank), []).append(row)
    out_lines = [_gain_line(lines, layer.name, outputs=True) for lines in rows]
    in_lines = [_gain_line(lines, layer.name, outputs=False) for lines in rows]
    if not by_bucket and not any(out_lines) and not any(in_lines):
        return None
    down, up, _ = layer.factors
    num_inputs = layer.weight.shape[1]
    return Gathered(
        groups=tuple(_group(layer, rows, *item) for item in sorted(by_bucket.items())),
        out_gains=_lines_at(up, out_lines) if any(out_lines) else None,
        in_gains=_lines_at(down[:, :num_inputs], in_lines) if any(in_lines) else None,
    )


def _gain_line(lines: Lines | None, name: str, *, outputs: bool) -> int:
    """Return the line of a row's gains on one layer, 0 for none."""
    if lines is None or name not in (lines.out_gains if outputs else lines.in_gains):
        return 0
    return lines.gain_line


def _group(layer: Layer, rows: Sequence[Lines | None], bucket: int, chosen: list[int]) -> Group:
    """Return the factors of the rows ``chosen``, each padded with line 0 to ``bucket``."""
    numbers: list[int] = []
    for row in chosen:
        lines = rows[row]
        assert lines is not None
        rank = lines.ranks[layer.name]
        numbers += [*lines.numbers[:rank], *[0] * (bucket - rank)]
    shape = (len(chosen), bucket, -1)
    return Group(
        rows=_row_selector(chosen, len(rows), layer.weight.device),
        down=_lines_at(layer.factors.down, numbers).view(shape),
        up=_lines_at(layer.factors.up, numbers).view(shape),
    )


def _row_selector(chosen: list[int], num_rows: int, device: torch.device) -> slice | Tensor | None:
    """Return what selects ``chosen``, as a view where they lie together."""
    if len(chosen) == num_rows:
        return None
    if chosen[-1] - chosen[0] == len(chosen) - 1:
        return slice(chosen[0], chosen[-1] + 1)
    return torch.tensor(chosen, device=device)


def _lines_at(table: Tensor, numbers: list[int]) -> Tensor:
    return table.index_select(0, torch.tensor(numbers, device=table.device))


def _size_bytes(gathered: Gathered) -> int:
    tensors = [t for group in gathered.groups for t in (group.down, group.up)]
    tensors += [t for t in (gathered.out_gains, gathered.in_gains) if t is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
