"""Upkeep of packs: what nothing needs goes, every entry stays once, and damage is put aside.

Both are safe beside writers, readers and each other. What was written less than a grace ago is
never touched; a pack goes only once what it held that is needed is in another; of copies, the one
in the pack of the least name stays, so that two that decide at once decide alike. Ages are told by
the store's own clock, and what seems to come from the future counts as new.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from diptych.embeddings.gc_plan import GcPlan, GcPolicy, Mask, OldPack, make_plan
from diptych.embeddings.pack import PackRef, Rows
from diptych.embeddings.pack_store import PackConfig, PackStore
from diptych.embeddings.read_ahead import read_ahead
from diptych.embeddings.roots import Roots

__all__ = ["GRACE_S", "GcReport", "VerifyReport", "gc", "verify"]

GRACE_S: Final = 3600.0
"""Must be longer than a collection takes."""


_NUM_AHEAD: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What was done, or would be done by a dry run."""

    is_dry_run: bool
    num_roots: int
    num_collected: int
    """Entries that no root needs and that are too old or over the budget."""
    collected_bytes: int
    num_copies: int
    """Entries that are in another pack too."""
    copies_bytes: int
    num_damaged: int
    """Entries and packs in quarantine that go for good."""
    num_packs_removed: int
    num_packs_rewritten: int
    """Packs whose living entries are written into new ones, small packs among them."""
    num_packs_young: int
    """Packs written less than the grace ago: left alone."""
    num_packs_from_future: int
    """Those of them that are newer than the store's own clock."""
    kept_bytes: int
    over_budget_bytes: int
    """What stays above the budget because roots need it or it is young."""
    is_complete: bool = True
    """False where it took too long; the next collection goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What every byte was read for."""

    num_packs: int
    num_entries: int
    size_bytes: int
    num_damaged: int
    """Entries found damaged by this run and put aside: misses from now on."""
    num_damaged_packs: int
    num_quarantined: int
    """Everything in quarantine now; ``gc`` removes it when it is old enough."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found damaged."""
        return self.num_damaged == self.num_damaged_packs == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    plan: GcPlan
    num_roots: int
    num_young: int
    num_from_future: int
    now_s: float


def verify(store: PackStore, *, advance: Callable[[int], None] = lambda _: None) -> VerifyReport:
    """Read every entry of every pack and put aside what is damaged.

    ``advance`` is told of the entries that were read. Raises ``SourceUnavailable``.
    """
    before = store.stats()
    store.refresh()
    put_aside = store.packs.quarantined()
    num_entries = size_bytes = num_packs = 0
    for ref, rows in _all_rows(store, store.refs()):
        num_packs += 1
        chunks = _chunks(rows[~_damaged(rows, put_aside.get(ref.name, set()))], store.config)
        read = partial(store.read_rows, ref)
        for found in read_ahead(chunks, read, pool=store.pool, num_ahead=_NUM_AHEAD):
            num_entries += sum(data is not None for data in found)
            size_bytes += sum(len(data) for data in found if data is not None)
            advance(len(found))
    after = store.stats()
    return VerifyReport(
        num_packs=num_packs,
        num_entries=num_entries,
        size_bytes=size_bytes,
        num_damaged=after.num_damaged - before.num_damaged,
        num_damaged_packs=after.num_damaged_packs - before.num_damaged_packs,
        num_quarantined=sum(1 for _ in store.packs.quarantine()),
    )


def gc(
    store: PackStore,
    *,
    older_than_s: float | None = None,
    budget_bytes: int | None = None,
    is_dry_run: bool,
    grace_s: float = GRACE_S,
    limit_s: float = GRACE_S / 2,
) -> GcReport:
    """Collect what no root needs by age and budget, copies and damage; merge small packs.

    Args:
        store: Whose packs.
        older_than_s: What no root needs goes when it is older; None: at any age, but where there
            is a budget only as far as that asks for.
        budget_bytes: What may be left; the oldest go first.
        is_dry_run: Change nothing.
        grace_s: What was written less than so long ago stays.
        limit_s: When to stop for the next one to go on; well below ``grace_s``.

    Raises:
        BlobCorrupt: A root is damaged, so what it needs is not known; nothing was changed.
        StoreFull: There is no room for the packs that are to replace others; nothing is lost.
        SourceUnavailable: The store does not answer; nothing is lost.
    """
    any_age_s = 0.0 if budget_bytes is None else math.inf
    policy = GcPolicy(
        older_than_s=any_age_s if older_than_s is None else older_than_s,
        budget_bytes=budget_bytes,
        small_bytes=store.config.pack_bytes // 2,
    )
    until_s = time.monotonic() + limit_s
    seen = _look(store, policy, grace_s)
    report = _report(seen, policy, is_dry_run=is_dry_run)
    if is_dry_run:
        return report
    store.remove([pack.ref for pack in seen.plan.removed])
    is_complete = _rewrite(store, seen.plan.rewritten, until_s)
    _sweep_quarantine(store, seen, max(older_than_s or 0.0, grace_s))
    return replace(report, is_complete=is_complete)


def _look(store: PackStore, policy: GcPolicy, grace_s: float) -> _Seen:
    """See what there is, then what is needed: a root written meanwhile is seen."""
    store.refresh()
    now_s, refs, quarantined = store.packs.now_s(), store.packs.listing(), store.packs.quarantined()
    young = [ref for ref in refs if now_s - ref.modified_s < grace_s]
    names = {ref.name for ref in young}
    old = [
        OldPack(
            ref=ref,
            age_s=now_s - ref.modified_s,
            rows=rows,
            damaged=_damaged(rows, quarantined.get(ref.name, set())),
        )
        for ref, rows in _all_rows(store, [ref for ref in refs if ref.name not in names])
    ]
    roots = Roots(store.packs)
    num_roots, needed = len(roots.roots()), roots.needed()
    young_bytes = sum(ref.size_bytes - ref.tail_bytes for ref in young)
    return _Seen(
        plan=make_plan(old, needed, policy, young_bytes=young_bytes),
        num_roots=num_roots,
        num_young=len(young),
        num_from_future=sum(ref.modified_s > now_s for ref in young),
        now_s=now_s,
    )


def _report(seen: _Seen, policy: GcPolicy, *, is_dry_run: bool) -> GcReport:
    plan, budget = seen.plan, policy.budget_bytes
    return GcReport(
        is_dry_run=is_dry_run,
        num_roots=seen.num_roots,
        num_collected=plan.num_collected,
        collected_bytes=plan.collected_bytes,
        num_copies=plan.num_copies,
        copies_bytes=plan.copies_bytes,
        num_damaged=plan.num_damaged,
        num_packs_removed=len(plan.removed),
        num_packs_rewritten=len(plan.rewritten),
        num_packs_young=seen.num_young,
        num_packs_from_future=seen.num_from_future,
        kept_bytes=plan.kept_bytes,
        over_budget_bytes=0 if budget is None else max(0, plan.kept_bytes - budget),
    )


def _rewrite(store: PackStore, packs: Sequence[tuple[OldPack, Mask]], until_s: float) -> bool:
    """Write living entries into full packs; each old pack goes once all of its own are written."""
    batch: dict[bytes, bytes] = {}
    covered: list[PackRef] = []
    for pack, alive in packs:
        if time.monotonic() > until_s:
            return False
        rows = pack.rows[alive]
        found = zip(rows["key"], store.read_rows(pack.ref, rows), strict=True)
        batch |= {key.tobytes(): data for key, data in found if data is not None}
        covered.append(pack.ref)
        if sum(map(len, batch.values())) >= store.config.pack_bytes:
            _replace(store, batch, covered)
            batch, covered = {}, []
    _replace(store, batch, covered)
    return True


def _replace(store: PackStore, batch: dict[bytes, bytes], covered: Sequence[PackRef]) -> None:
    if batch:
        store.write_pack(batch)
    store.remove(covered)


def _sweep_quarantine(store: PackStore, seen: _Seen, older_than_s: float) -> None:
    """Remove what was put aside long ago, unless it still hides an entry of a pack."""
    names = {ref.name for ref in store.refs()}
    for info in list(store.packs.quarantine()):
        is_old = seen.now_s - info.modified_s > older_than_s
        if is_old and info.key.rsplit("/", 2)[1] not in names:
            store.packs.blobs.delete(info.key)


def _damaged(rows: Rows, put_aside: set[bytes]) -> Mask:
    if not put_aside:
        return np.zeros(len(rows), np.bool_)
    return np.array([key.tobytes() in put_aside for key in rows["key"]])


def _all_rows(store: PackStore, refs: Sequence[PackRef]) -> Iterator[tuple[PackRef, Rows]]:
    """Yield the packs that are there and whole, with their rows."""
    found = read_ahead(refs, store.packs.rows, pool=store.pool, num_ahead=_NUM_AHEAD)
    for ref, rows in zip(refs, found, strict=True):
        if rows is not None:
            yield ref, rows


def _chunks(rows: Rows, config: PackConfig) -> Iterator[Rows]:
    """Cut rows into parts that one thread reads at once, at least one row each."""
    parts = (rows["offset"] // config.chunk_bytes).astype(np.int64)
    if len(rows):
        yield from np.split(rows, np.flatnonzero(np.diff(parts)) + 1)
