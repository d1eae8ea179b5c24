"""The rank lines of one network's layers: where bound adapters lie while images run with them.

A bank is one table [L, width]; a line is a row of it and holds, layer by layer, one row of
``lora_A`` beside one column of ``lora_B``. A set of rank R takes R lines, the same in every
layer, and one more if it has gains. Line 0 and all free lines are zeros. Writing copies into
lines, so shapes and addresses never change: what was compiled or recorded stays valid.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diptych.adapters.binding import Branch
from diptych.adapters.row_lines import RANK_BUCKETS, Layer, Lines, RowLines, RowUses, bucket_of
from diptych.errors import AdapterInvalid, AdapterSlotsFull
from diptych.kernels.low_rank import AddLowRank, Factors, RowTensors, Window, add_low_rank

__all__ = ["Bank", "Packed", "layer_width"]

_ALIGNMENT: Final = 16
"""Columns; devices read a line fastest from a multiple of 16 or 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """Branches in a bank's own format, in host memory; pinned if the bank is on a device."""

    values: Tensor
    """[n, w]: only the columns that ``columns`` names, side by side."""
    columns: tuple[slice, ...]
    ranks: Mapping[str, int]
    """By layer; layers that the set leaves alone are absent."""
    out_gains: frozenset[str]
    """Layers whose outputs it scales."""
    in_gains: frozenset[str]
    """Layers whose inputs it scales."""

    @property
    def num_lines(self) -> int:
        """Return how many lines it takes."""
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """Return what it takes in host memory."""
        return self.values.numel() * self.values.element_size()


class Bank:
    """Owns the lines of one network; ``injection.inject`` makes it.

    ``pack`` is safe on any thread. All else belongs to the thread that calls the network.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, torch.nn.Module, Window | None]],
        *,
        num_lines: int,
        add_low_rank: AddLowRank = add_low_rank,
        fixed_shapes: bool,
    ) -> None:
        weight = layers[0][1].weight
        assert isinstance(weight, Tensor)
        self.rows: RowLines | RowTensors | None = None
        """What the next forward uses; None is the network as it was loaded."""
        self.add_low_rank = add_low_rank
        self.fixed_shapes = fixed_shapes
        self.num_lines = num_lines
        width = sum(layer_width(module) for _, module, _ in layers)
        self._table = _zeros(num_lines, width, like=weight)
        self._used = torch.zeros(len(layers), num_lines, dtype=torch.int32, device=weight.device)
        self._layers: dict[str, Layer] = {}
        self._numbers = {name: number for number, (name, _, _) in enumerate(layers)}
        start = 0
        for name, module, window in layers:
            columns = slice(start, start + layer_width(module))
            self._layers[name] = self._place(name, module, window, columns)
            start = columns.stop
        self._free = list(range(1, num_lines))
        self._held: set[Lines] = set()

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Return the wrapped layers by name."""
        return MappingProxyType(self._layers)

    @property
    def num_free(self) -> int:
        """Return how many lines can still be written."""
        return len(self._free)

    @property
    def line_bytes(self) -> int:
        """Return what one line takes on the device."""
        return self._table.shape[1] * self._table.element_size()

    def weight_of(self, name: str) -> Tensor | None:
        """Return a layer's weight, for ``binding.bind``; None if no such layer is wrapped."""
        layer = self._layers.get(name)
        return None if layer is None else layer.weight

    def pack(self, branches: Mapping[str, Branch], *, source: str = "bound") -> Packed:
        """Return ``branches`` ready to be written: everything that takes long, on the host.

        Raises:
            AdapterInvalid: A layer's are not finite in this network's dtype; ``source`` and the
                layer are named.
        """
        ordered = sorted(branches, key=self._numbers.__getitem__)
        columns = [self._layers[name].columns for name in ordered]
        has_gains = any(b.out_gain is not None or b.in_gain is not None for b in branches.values())
        rank = max((branch.rank for branch in branches.values()), default=0)
        values = torch.zeros(
            rank + has_gains,
            sum(piece.stop - piece.start for piece in columns),
            dtype=self._table.dtype,
            pin_memory=self._table.device.type == "cuda",
        )
        start = 0
        for name in ordered:
            branch, layer = branches[name], self._layers[name]
            stop = start + layer.columns.stop - layer.columns.start
            own = values[:, start:stop]
            _fill(own, branch)
            if not own.isfinite().all():
                raise AdapterInvalid(source, f"{name} is beyond what {own.dtype} holds here")
            start = stop
        return Packed(
            values=values,
            columns=_merged(columns),
            ranks=MappingProxyType({name: branches[name].rank for name in ordered}),
            out_gains=frozenset(n for n in ordered if branches[n].out_gain is not None),
            in_gains=frozenset(n for n in ordered if branches[n].in_gain is not None),
        )

    def write(self, packed: Packed) -> Lines:
        """Copy a set into free lines.

        Raises:
            AdapterSlotsFull: It takes more lines than are free.
        """
        if packed.num_lines > self.num_free:
            raise AdapterSlotsFull(needed_lines=packed.num_lines, num_lines=self.num_lines - 1)
        # Before any line is taken: here the device may be out of memory.
        values = self._on_device(packed.values)
        lines = Lines(
            numbers=tuple(heapq.heappop(self._free) for _ in range(packed.num_lines)),
            packed_columns=packed.columns,
            ranks=packed.ranks,
            out_gains=packed.out_gains,
            in_gains=packed.in_gains,
        )
        self._held.add(lines)
        try:
            self._copy(lines, values)
        except BaseException:
            self.free(lines)
            raise
        return lines

    def free(self, lines: Lines) -> None:
        """Clear a set's lines for others; no row may use it any more."""
        self._held.remove(lines)
        numbers = self._tensor(lines.numbers)
        for columns in lines.packed_columns:
            self._table[:, columns].index_fill_(0, numbers, 0.0)
        self._used.index_fill_(1, numbers, 0)
        for number in lines.numbers:
            heapq.heappush(self._free, number)

    def select(self, rows: Sequence[RowUses]) -> RowLines | None:
        """Return the sets of a batch's rows for ``using``; None if no row has one."""
        if not any(rows):
            return None
        assert self._held.issuperset(lines for uses in rows for lines, _ in uses)
        return RowLines(uses=tuple(rows), tensors=self._row_tensors(rows))

    def no_rows(self, num_rows: int) -> RowTensors:
        """Return rows that use no set, in the form that those of fixed shapes have."""
        return self._row_tensors([()] * num_rows)

    @contextmanager
    def using(self, rows: RowLines | None) -> Iterator[None]:
        """Let forwards within apply ``rows``, whose length is the batch's."""
        if rows is not None:
            self.rows = rows.tensors if self.fixed_shapes else rows
        try:
            yield
        finally:
            self.rows = None

    @contextmanager
    def using_tensors(self, rows: RowTensors | None) -> Iterator[None]:
        """Do as ``using`` with what ``RowLines.tensors`` holds; for a function that is compiled.

        Such a function takes them as an argument, so a graph has them as inputs.
        """
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def _place(
        self, name: str, module: torch.nn.Module, window: Window | None, columns: slice
    ) -> Layer:
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor | None)
        middle = columns.start + _aligned(weight[0].numel())
        factors = Factors(
            down=self._table[:, columns.start : columns.start + weight[0].numel()],
            up=self._table[:, middle : middle + len(weight)],
            used=self._used[self._numbers[name]],
        )
        return Layer(
            name=name, weight=weight, bias=bias, window=window, columns=columns, factors=factors
        )

    def _copy(self, lines: Lines, values: Tensor) -> None:
        """Write packed values [n, w], which lie on the device, into a set's lines."""
        numbers = self._tensor(lines.numbers)
        start = 0
        for columns in lines.packed_columns:
            stop = start + columns.stop - columns.start
            self._table[:, columns].index_copy_(0, numbers, values[:, start:stop])
            start = stop
        self._mark(lines, numbers)

    def _mark(self, lines: Lines, numbers: Tensor) -> None:
        """Note which layers the new lines hold factors of."""
        table = np.zeros((len(self._layers), len(lines.numbers)), dtype=np.int32)
        for name, rank in lines.ranks.items():
            table[self._numbers[name], :rank] = 1
        self._used.index_copy_(1, numbers, self._on_device(torch.from_numpy(table)))

    def _row_tensors(self, rows: Sequence[RowUses]) -> RowTensors:
        rank = max(sum(lines.rank for lines, _ in uses) for uses in rows)
        width = bucket_of(max(rank, RANK_BUCKETS[-1]) if self.fixed_shapes else rank)
        numbers = np.zeros((len(rows), width), dtype=np.int32)
        scales = np.zeros(numbers.shape, dtype=np.float32)
        gains = np.zeros((2, len(rows)), dtype=np.int32)
        for row, uses in enumerate(rows):
            start = 0
            for lines, scale in uses:
                stop = start + lines.rank
                numbers[row, start:stop] = lines.numbers[: lines.rank]
                scales[row, start:stop] = scale
                start = stop
                if lines.gain_line:
                    assert scale == 1.0
                    assert not gains[0, row]
                    gains[:, row] = lines.gain_line
        chosen = [lines for uses in rows for lines, _ in uses]
        out_gains, in_gains = self._on_device(torch.from_numpy(gains))
        return RowTensors(
            lines=self._on_device(torch.from_numpy(numbers)),
            scales=self._on_device(torch.from_numpy(scales)),
            out_gains=out_gains
            if self.fixed_shapes or any(lines.out_gains for lines in chosen)
            else None,
            in_gains=in_gains if any(lines.in_gains for lines in chosen) else None,
        )

    def _on_device(self, tensor: Tensor) -> Tensor:
        """Return a tensor that was just made; the device does not wait for it."""
        return tensor.to(self._table.device, non_blocking=True)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return self._on_device(torch.tensor(numbers, dtype=torch.long))


def layer_width(module: torch.nn.Module) -> int:
    """Return the columns a layer takes: one row of ``lora_A`` and one column of ``lora_B``."""
    assert isinstance(module.weight, Tensor)
    return _aligned(module.weight[0].numel()) + _aligned(len(module.weight))


def _aligned(width: int) -> int:
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def _zeros(num_lines: int, width: int, *, like: Tensor) -> Tensor:
    """Return zeros [L, width]; on a CPU, memory is taken only where something is written."""
    if like.device.type != "cpu":
        return torch.zeros(num_lines, width, dtype=like.dtype, device=like.device)
    untouched = np.zeros(num_lines * width * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(untouched).view(like.dtype).view(num_lines, width)


def _fill(values: Tensor, branch: Branch) -> None:
    """Write one layer's branch into its columns [n, w] of a set, whose last line is for gains."""
    down = branch.down.flatten(1)
    values[: branch.rank, : down.shape[1]] = down
    up = values[:, _aligned(down.shape[1]) :][:, : len(branch.up)]
    up[: branch.rank] = branch.up.mT
    if branch.out_gain is not None:
        up[-1] = branch.out_gain
    if branch.in_gain is not None:
        values[-1, : len(branch.in_gain)] = branch.in_gain


def _merged(columns: Sequence[slice]) -> tuple[slice, ...]:
    """Return ascending ``columns`` with neighbours joined."""
    merged: list[slice] = []
    for piece in columns:
        if merged and merged[-1].stop == piece.start:
            merged[-1] = slice(merged[-1].start, piece.stop)
        else:
            merged.append(piece)
    return tuple(merged)
