"""Removal of adapters that no name points at, in two passes a grace apart.

The first pass marks what nothing names. Whoever names a marked adapter takes the mark off before
it does. A later pass, once the grace is over, changes a mark so that this is refused, reads all
names once more, and removes what is still not named. So the only thing assumed is that a publisher
needs less than a grace from the end of its upload to its name.
"""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from diptych.adapters.naming import DEFAULT_TENANT
from diptych.adapters.registry import Registry, utc_now
from diptych.adapters.stores import GRACE, Mark
from diptych.digest import Digest
from diptych.errors import DiptychError
from diptych.storage.refs import Ref

__all__ = ["Sweeper", "Swept", "sweep"]

PAUSE: Final = timedelta(minutes=10)
"""Between two passes over the bytes of one tenant."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a pass found without a name; digests with their sizes in bytes."""

    removed: dict[Digest, int]
    """Gone; in a dry run, what would be."""
    waiting: dict[Digest, int]
    """Marked for a later pass; in a dry run, what would be."""


class Sweeper:
    """Sweeps a tenant's bytes now and then, whenever one of its names has moved or gone.

    Safe from any thread; a pass that fails is logged and tried again after the next change.
    """

    def __init__(self, registry: Registry, *, now: Callable[[], datetime] = utc_now) -> None:
        self._registry, self._now = registry, now
        self._lock = threading.Lock()
        self._swept_at: dict[str, datetime] = {}

    def name_changed(self, tenant: str) -> None:
        """Make a pass over the bytes of ``tenant`` unless there was one a moment ago."""
        now = self._now()
        with self._lock:
            swept_at = self._swept_at.get(tenant)
            if swept_at is not None and now - swept_at < PAUSE:
                return
            self._swept_at[tenant] = now
        try:
            sweep(self._registry, now=now, tenant=tenant)
        except DiptychError as error:
            _log.warning("the adapters of tenant %s are not swept: %s", tenant, error)


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
