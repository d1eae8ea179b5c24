"""Removal of adapters that no name points at, in two passes a grace apart.

The first pass marks what nothing names. Whoever names a marked adapter takes the mark off before
it does. A later pass, once the grace is over, changes a mark so that this is refused, reads all
names once more, and removes what is still not named. So the only thing assumed is that a publisher
needs less than a grace from the end of its upload to its name.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from diptych.adapters.naming import DEFAULT_TENANT
from diptych.adapters.registry import Registry
from diptych.adapters.stores import GRACE, Mark
from diptych.digest import Digest
from diptych.storage.refs import Ref

__all__ = ["Swept", "sweep"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a pass found without a name; digests with their sizes in bytes."""

    removed: dict[Digest, int]
    """Gone; in a dry run, what would be."""
    waiting: dict[Digest, int]
    """Marked for a later pass; in a dry run, what would be."""


def sweep(
    registry: Registry,
    *,
    now: datetime,
    tenant: str = DEFAULT_TENANT,
    keep: Collection[Digest] = (),
    grace: timedelta = GRACE,
    dry_run: bool = False,
) -> Swept:
    """Mark what nothing names and remove what was marked a grace ago, save what is in ``keep``."""
    stores = registry.stores
    content = stores.content(tenant)
    named = _named(registry, tenant) | set(keep)
    removed: dict[Digest, int] = {}
    waiting: dict[Digest, int] = {}
    going: dict[Digest, Ref] = {}
    for digest, size_bytes in content.listing():
        if digest in named:
            continue
        ref = stores.refs.read(stores.mark_key(tenant, digest))
        if ref is None or now - Mark.of(ref).since < grace:
            waiting[digest] = size_bytes
            if ref is None and not dry_run:
                value = Mark(since=now).to_bytes()
                stores.refs.write(stores.mark_key(tenant, digest), value, expected=None)
        else:
            removed[digest] = size_bytes
            if not dry_run:
                going |= _claim(registry, tenant, digest, ref, now)
    if dry_run:
        return Swept(removed=removed, waiting=waiting)
    named = _named(registry, tenant) | set(keep) if going else named
    gone = {digest for digest, ref in going.items() if digest not in named}
    for digest, ref in going.items():
        if digest in gone:
            _remove(registry, tenant, digest)
        stores.refs.delete(ref.key, expected=ref.version)
    return Swept(removed={item: removed[item] for item in gone}, waiting=waiting)


def _named(registry: Registry, tenant: str) -> set[Digest]:
    return {pointer.digest for pointer in registry.pointers(tenant).values()}


def _claim(
    registry: Registry, tenant: str, digest: Digest, ref: Ref, now: datetime
) -> dict[Digest, Ref]:
    """Return the mark after nobody may take it off any more; nothing if somebody just did."""
    key = registry.stores.mark_key(tenant, digest)
    value = Mark(since=now, is_going=True).to_bytes()
    claimed = registry.stores.refs.write(key, value, expected=ref.version)
    return {digest: claimed} if claimed else {}


def _remove(registry: Registry, tenant: str, digest: Digest) -> None:
    stores = registry.stores
    card = stores.refs.read(stores.card_key(tenant, digest))
    if card:
        stores.refs.delete(card.key, expected=card.version)
    stores.content(tenant).delete(digest)
    _log.info("%s of tenant %s is swept away", digest, tenant)
