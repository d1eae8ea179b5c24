"""What a collection would do to packs: a pure function of what is stored, needed and allowed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.embeddings.key_table import Keys
from diptych.embeddings.pack import PackRef, Rows

__all__ = ["GcPlan", "GcPolicy", "Mask", "OldPack", "make_plan"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPolicy:
    """What may be collected."""

    older_than_s: float
    """Entries that no root needs go when they are older."""
    budget_bytes: int | None = None
    """Then the oldest of them go until all entries together are no more than this."""
    small_bytes: int
    """Packs that hold less are merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldPack:
    """A pack that was written longer ago than the grace."""

    ref: PackRef
    age_s: float
    rows: Rows
    damaged: Mask
    """Which of its entries are in quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPlan:
    """Packs that go, and packs whose living entries are written anew."""

    removed: Sequence[OldPack]
    rewritten: Sequence[tuple[OldPack, Mask]]
    """With which of their entries live."""
    num_collected: int = 0
    """Entries that no root needs and that are too old or over the budget."""
    collected_bytes: int = 0
    num_copies: int = 0
    """Entries that are in another pack too."""
    copies_bytes: int = 0
    num_damaged: int = 0
    kept_bytes: int = 0
    """Entries that stay, those of young packs too."""


def make_plan(
    packs: Sequence[OldPack], needed: Keys, policy: GcPolicy, *, young_bytes: int = 0
) -> GcPlan:
    """Decide about every entry of ``packs``; ``young_bytes`` are in packs that are left alone."""
    if not packs:
        return GcPlan(removed=(), rewritten=(), kept_bytes=young_bytes)
    sizes = [len(pack.rows) for pack in packs]
    rows = np.concatenate([pack.rows for pack in packs])
    owner = np.repeat(np.arange(len(packs)), sizes)
    age_s = np.array([pack.age_s for pack in packs])[owner]
    damaged = np.concatenate([pack.damaged for pack in packs])
    copies = _copies(rows["key"], _ranks(packs)[owner], damaged)
    unneeded = ~damaged & ~copies & ~_is_among(rows["key"], needed)
    collected = unneeded & (age_s > policy.older_than_s)
    if policy.budget_bytes is not None:
        live = ~damaged & ~copies & ~collected
        excess = int(rows["size"][live].sum()) + young_bytes - policy.budget_bytes
        collected |= _oldest(unneeded & live, age_s, rows["size"], excess)
    alive = ~(damaged | copies | collected)
    removed, rewritten = _sorted_out(packs, np.split(alive, np.cumsum(sizes)[:-1]), policy)
    return GcPlan(
        removed=removed,
        rewritten=rewritten,
        num_collected=int(collected.sum()),
        collected_bytes=int(rows["size"][collected].sum()),
        num_copies=int(copies.sum()),
        copies_bytes=int(rows["size"][copies].sum()),
        num_damaged=int(damaged.sum()),
        kept_bytes=int(rows["size"][alive].sum()) + young_bytes,
    )


def _sorted_out(
    packs: Sequence[OldPack], alive: Sequence[Mask], policy: GcPolicy
) -> tuple[list[OldPack], list[tuple[OldPack, Mask]]]:
    """Return the packs without living entries, and those to be written anew."""
    removed, wasteful, small = [], [], []
    for pack, mask in zip(packs, alive, strict=True):
        if not mask.any():
            removed.append(pack)
        elif not mask.all():
            wasteful.append((pack, mask))
        elif int(pack.rows["size"].sum()) < policy.small_bytes:
            small.append((pack, mask))
    if len(wasteful) + len(small) > 1:
        wasteful += small
    return removed, sorted(wasteful, key=lambda item: (-item[0].age_s, item[0].ref.name))


def _ranks(packs: Sequence[OldPack]) -> NDArray[np.int64]:
    """Return each pack's place in the order of their names."""
    ranks = np.empty(len(packs), np.int64)
    ranks[sorted(range(len(packs)), key=lambda at: packs[at].ref.name)] = np.arange(len(packs))
    return ranks


def _copies(keys: Keys, ranks: NDArray[np.int64], damaged: Mask) -> Mask:
    """Tell which whole entries have another in a pack of lesser rank."""
    order = np.lexsort((ranks, damaged, *keys.T))
    order = order[~damaged[order]]
    copies = np.zeros(len(keys), np.bool_)
    copies[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return copies


def _is_among(keys: Keys, needed: Keys) -> Mask:
    """Tell which keys are needed; where 64 bits are equal, rather one too many is kept."""
    return np.isin(keys[:, 0], needed[:, 0])


def _oldest(among: Mask, age_s: NDArray[np.float64], sizes: Rows, excess: int) -> Mask:
    """Tell which entries go, oldest first, so that ``excess`` bytes do."""
    found = np.flatnonzero(among)
    found = found[np.argsort(-age_s[found], kind="stable")]
    freed_before = np.cumsum(sizes[found]) - sizes[found]
    chosen = np.zeros(len(among), np.bool_)
    chosen[found[freed_before < max(0, excess)]] = True
    return chosen
