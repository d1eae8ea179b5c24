"""Pages of a registry's names, in their order; a page begins after the name the last one ended at.

So names that come or go between two pages neither repeat nor hide others.
"""

import base64
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.naming import DEFAULT_TENANT, Stage
from diptych.adapters.registry import AdapterEntry, Registry
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, FieldViolation, InvalidRequest
from diptych.storage.blobs import folder_of
from diptych.storage.refs import RefStamp

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "Filter", "Page", "list_page"]

_log = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
_NUM_READERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a listing is about; None and an empty prefix let everything through."""

    name_prefix: str = ""
    family: str | None = None
    stage: Stage | None = None
    kind: Kind | None = None

    def takes(self, card: AdapterCard) -> bool:
        """Tell whether ``card`` is what is looked for; names are not looked at."""
        return (
            self.family in {None, card.family}
            and self.stage in {None, card.stage}
            and (self.kind is None or self.kind in card.kinds)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some entries; ``next_page_token`` is empty with the last of them."""

    entries: tuple[AdapterEntry, ...]
    next_page_token: str


def list_page(
    registry: Registry,
    where: Filter | None = None,
    *,
    tenant: str = DEFAULT_TENANT,
    page_size: int = 0,
    page_token: str = "",
) -> Page:
    """Return up to ``page_size`` of a tenant's names with what they point at, in their order.

    Raises:
        InvalidRequest: ``page_size`` is negative, ``page_token`` is none of this listing's, or no
            name can begin as asked.
    """
    where = where or Filter()
    try:
        folder_of(registry.stores.names(tenant, where.name_prefix))
    except InvalidRequest as invalid:
        raise _invalid("name_prefix", f"{where.name_prefix[:80]!r} begins no name") from invalid
    if page_size < 0:
        raise _invalid("page_size", f"{page_size} is negative")
    limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    listing = _listing_digest(tenant, where)
    after = _after(page_token, listing)
    found = list(islice(_entries(registry, where, tenant, after, limit + 1), limit + 1))
    entries = tuple(entry for _, entry in found[:limit])
    token = _token(found[limit - 1][0], listing) if len(found) > limit else ""
    return Page(entries=entries, next_page_token=token)


def _entries(
    registry: Registry, where: Filter, tenant: str, after: str, batch: int
) -> Iterator[tuple[str, AdapterEntry]]:
    """Yield keys and entries after a key; values of one batch are read at the same time."""
    refs, prefix = registry.stores.refs, registry.stores.names(tenant, where.name_prefix)

    def read(stamp: RefStamp) -> AdapterEntry | None:
        ref = refs.read(stamp.key)
        try:
            return registry.entry(stamp.key, ref, tenant=tenant) if ref else None
        except AdapterNotFound:
            _log.warning("%s points at an adapter without a card", stamp.key)
            return None

    with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="listing") as pool:
        while stamps := refs.listing(prefix, after=after, limit=batch):
            after = stamps[-1].key
            for stamp, entry in zip(stamps, pool.map(read, stamps), strict=True):
                if entry and where.takes(entry.card):
                    yield stamp.key, entry


def _listing_digest(tenant: str, where: Filter) -> str:
    return Digest.of_value([tenant, asdict(where)]).hex[:16]


def _token(key: str, listing: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([listing, key]).encode()).decode()


def _after(token: str, listing: str) -> str:
    if not token:
        return ""
    try:
        found, key = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (ValueError, TypeError) as error:
        raise _invalid("page_token", "is not one that this server gave") from error
    if found != listing or not isinstance(key, str):
        raise _invalid("page_token", "belongs to a listing with another filter")
    return key


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)])
