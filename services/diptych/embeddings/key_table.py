"""Where each key's entries lie, about 93 bytes an entry, for millions of them.

Sorted runs of rows, merged as they come so that each is at least twice as long as the next: adding
costs little however many there are, and finding one looks into some twenty runs at most.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.embeddings.pack import KEY_BYTES, ROW, Rows

__all__ = ["KeyTable", "Keys", "Place", "keys_of"]

Keys = NDArray[np.uint64]
"""Keys as four numbers each [N, 4]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One entry of one pack."""

    pack: int
    rows: Rows
    """One row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    heads: NDArray[np.uint64]
    """The first number of each key, ascending [N]."""
    rows: Rows
    packs: NDArray[np.uint32]
    alive: NDArray[np.bool_]


class KeyTable:
    """Rows by key. One thread changes it at a time; any may look into it meanwhile."""

    def __init__(self) -> None:
        self._runs: tuple[_Run, ...] = ()

    def __len__(self) -> int:
        """Return how many entries there are, copies counted."""
        return sum(int(np.count_nonzero(run.alive)) for run in self._runs)

    def add(self, packs: Iterable[tuple[int, Rows]]) -> None:
        """Add the rows of packs, each with the number that the pack goes by here."""
        found = list(packs)
        if not found:
            return
        rows = np.concatenate([rows for _, rows in found])
        numbers = np.repeat(
            np.array([number for number, _ in found], np.uint32), [len(rows) for _, rows in found]
        )
        runs = [*self._runs, _run(rows, numbers)]
        while len(runs) > 1 and len(runs[-2].heads) < 2 * len(runs[-1].heads):
            last, previous = runs.pop(), runs.pop()
            runs.append(_merged(previous, last))
        self._runs = tuple(runs)

    def drop_packs(self, numbers: Collection[int]) -> None:
        """Forget every row of these packs."""
        for run in self._runs:
            run.alive[np.isin(run.packs, np.array(list(numbers), np.uint32))] = False

    def drop(self, key: bytes, pack: int) -> None:
        """Forget one entry of one pack."""
        for run, at in self._matches(key):
            if run.packs[at] == pack:
                run.alive[at] = False

    def find(self, key: bytes) -> list[Place]:
        """Return every place of ``key`` [32 bytes]."""
        return [
            Place(pack=int(run.packs[at]), rows=run.rows[at : at + 1])
            for run, at in self._matches(key)
            if run.alive[at]
        ]

    def find_many(self, keys: Keys) -> tuple[Rows, NDArray[np.int64]]:
        """Return one row for each of ``keys`` and its pack's number, -1 where there is none."""
        rows, packs = np.zeros(len(keys), ROW), np.full(len(keys), -1, np.int64)
        for run in self._runs:
            asked = np.flatnonzero(packs < 0)
            at = np.searchsorted(run.heads, keys[asked, 0])
            while asked.size:
                inside = at < len(run.heads)
                asked, at = asked[inside], at[inside]
                same = run.heads[at] == keys[asked, 0]
                asked, at = asked[same], at[same]
                is_hit = (run.rows["key"][at] == keys[asked]).all(axis=1) & run.alive[at]
                rows[asked[is_hit]] = run.rows[at[is_hit]]
                packs[asked[is_hit]] = run.packs[at[is_hit]]
                asked, at = asked[~is_hit], at[~is_hit] + 1
        return rows, packs

    def each_key(self) -> Iterator[bytes]:
        """Yield every key once, in order of their numbers."""
        if not self._runs:
            return
        found = np.concatenate([run.rows["key"][run.alive] for run in self._runs])
        order = np.lexsort(found.T[::-1])
        previous = b""
        for at in order:
            key = found[at].tobytes()
            if key != previous:
                yield key
            previous = key

    def _matches(self, key: bytes) -> Iterator[tuple[_Run, int]]:
        wanted = np.frombuffer(key, "<u8")
        for run in self._runs:
            at = int(run.heads.searchsorted(wanted[0]))
            while at < len(run.heads) and run.heads[at] == wanted[0]:
                if np.array_equal(run.rows["key"][at], wanted):
                    yield run, at
                at += 1


def keys_of(raw: bytes) -> Keys:
    """Return keys that follow each other in ``raw`` as numbers."""
    assert len(raw) % KEY_BYTES == 0
    return np.frombuffer(raw, "<u8").reshape(-1, 4)


def _run(rows: Rows, packs: NDArray[np.uint32], alive: NDArray[np.bool_] | None = None) -> _Run:
    order = np.argsort(rows["key"][:, 0], kind="stable")
    rows = rows[order]
    return _Run(
        heads=np.ascontiguousarray(rows["key"][:, 0]),
        rows=rows,
        packs=packs[order],
        alive=np.ones(len(rows), np.bool_) if alive is None else alive[order],
    )


def _merged(one: _Run, other: _Run) -> _Run:
    return _run(
        np.concatenate([one.rows[one.alive], other.rows[other.alive]]),
        np.concatenate([one.packs[one.alive], other.packs[other.alive]]),
    )
