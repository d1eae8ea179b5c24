"""Adapters by name: bytes by digest in a blob store, names that move by compare-and-swap.

The bytes come first, then the card, the name last; so a name that can be seen points at bytes that
are whole, whoever is killed when. Each tenant has names, cards and bytes of its own. What lost its
last name stays until ``diptych.adapters.sweep`` removes it.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from diptych.adapters.card import AdapterCard
from diptych.adapters.naming import DEFAULT_TAG, DEFAULT_TENANT, split_reference
from diptych.adapters.stores import AdapterStores, Pointer
from diptych.digest import Digest
from diptych.errors import (
    AdapterNotFound,
    DigestMismatch,
    NameMoved,
    NameTaken,
    SourceUnavailable,
)
from diptych.storage.refs import Ref
from diptych.storage.tiers import HeldFiles

__all__ = ["AdapterEntry", "Registry", "utc_now"]

_log = logging.getLogger(__name__)

_NUM_TRIES: Final = 64
_NOTHING: Final = "nothing"
_MAX_CARDS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """A name's tag and the adapter it points at."""

    name: str
    tag: str
    card: AdapterCard
    moved_at: datetime
    """When the tag began to point there; in UTC."""


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


class Registry:
    """The adapters of all tenants; safe to use from many threads, and from many processes.

    It owns nothing but a memory of cards, which never change.
    """

    def __init__(
        self, stores: AdapterStores, files: HeldFiles, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.stores = stores
        self._files = files
        self._now = now
        self._cards: dict[tuple[str, Digest], AdapterCard] = {}

    def publish(
        self,
        name: str,
        bundle: bytes | Path,
        card: AdapterCard,
        *,
        tag: str = DEFAULT_TAG,
        tenant: str = DEFAULT_TENANT,
        expected: Digest | None = None,
        replace: bool = False,
    ) -> Digest:
        """Store ``bundle`` and its card, point the name's tag at it, and return its digest.

        A tag that points there already is left alone. One that points elsewhere moves only if it
        points at ``expected``, or whatever it points at with ``replace``.

        Raises:
            InvalidRequest: ``name`` or ``tag`` is not plain.
            DigestMismatch: ``card`` is another bundle's.
            NameTaken: The tag points elsewhere.
            NameMoved: The tag does not point at ``expected``.
            StoreFull: There is no room.
            SourceUnavailable: The store does not answer. Nothing can be seen of the adapter
                by name in any of these cases.
        """
        key = self.stores.name_key(tenant, name, tag)
        digest = self.keep(bundle, card, tenant=tenant)
        self._point(key, digest, expected=expected, replace=replace)
        return digest

    def keep(
        self, bundle: bytes | Path, card: AdapterCard, *, tenant: str = DEFAULT_TENANT
    ) -> Digest:
        """Store ``bundle`` and its card without a name and return its digest.

        It stays for as long as a sweep's grace unless ``move`` gives it a name.

        Raises:
            DigestMismatch: ``card`` is another bundle's.
            StoreFull: There is no room.
            SourceUnavailable: The store does not answer.
        """
        digest = Digest.of_bytes(bundle) if isinstance(bundle, bytes) else Digest.of_file(bundle)
        if digest != card.digest:
            raise DigestMismatch(expected=str(card.digest), actual=str(digest))
        self._put(tenant, bundle, digest)
        self._keep_card(tenant, card)
        return digest

    def move(
        self,
        name: str,
        digest: Digest,
        *,
        tag: str = DEFAULT_TAG,
        tenant: str = DEFAULT_TENANT,
        expected: Digest | None = None,
        replace: bool = False,
    ) -> None:
        """Point a name's tag at an adapter that is here; raises what ``publish`` does.

        Raises:
            AdapterNotFound: The tenant has no adapter ``digest``.
        """
        key = self.stores.name_key(tenant, name, tag)
        self.stores.spare(tenant, digest, now=self._now())
        if self.stores.content(tenant).size_bytes(digest) is None:
            raise AdapterNotFound(str(digest))
        self.card(digest, tenant=tenant)
        self._point(key, digest, expected=expected, replace=replace)

    def resolve(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Digest:
        """Return the digest that ``name``, ``name:tag`` or ``sha256:...`` means now.

        Raises:
            InvalidRequest: ``reference`` is none of these.
            AdapterNotFound: The tenant has no such adapter.
        """
        parsed = split_reference(reference)
        if isinstance(parsed, Digest):
            return self.card(parsed, tenant=tenant).digest
        ref = self.stores.refs.read(self.stores.name_key(tenant, *parsed))
        if ref is None:
            raise AdapterNotFound(reference)
        return Pointer.of(ref).digest

    def card(self, digest: Digest, *, tenant: str = DEFAULT_TENANT) -> AdapterCard:
        """Return an adapter's card.

        Raises:
            AdapterNotFound: The tenant has no such adapter.
        """
        found = self._cards.get((tenant, digest))
        if found is None:
            ref = self.stores.refs.read(self.stores.card_key(tenant, digest))
            if ref is None:
                raise AdapterNotFound(str(digest))
            found = AdapterCard.from_bytes(ref.value)
            self._remember(tenant, found)
        return found

    def hold(self, digest: Digest, *, tenant: str = DEFAULT_TENANT) -> AbstractContextManager[Path]:
        """Return a context in which a file holds the bundle, checked and not evicted.

        Raises:
            AdapterNotFound: The tenant has no such adapter.
            BlobNotFound: Its bytes are gone.
            BlobCorrupt: Its bytes are no longer right.
            StoreFull: This machine's disk has no room for it.
            SourceUnavailable: The store does not answer.
        """
        self.card(digest, tenant=tenant)
        return self._files.hold(digest, self.stores.content(tenant))

    def is_here(self, digest: Digest, *, tenant: str = DEFAULT_TENANT) -> bool:
        """Tell whether the bundle is on this machine's disk, so that holding it fetches nothing."""
        return self._files.has(digest, self.stores.content(tenant))

    def remove(
        self, reference: str, *, tenant: str = DEFAULT_TENANT, expected: Digest | None = None
    ) -> tuple[str, ...]:
        """Take names away and return them as ``name:tag``; bytes stay until they are swept.

        ``name`` means its tag ``latest``, ``name:tag`` that tag, a digest every tag at it.

        Raises:
            InvalidRequest: ``reference`` is none of these.
            AdapterNotFound: The tenant has no such name or adapter.
            NameMoved: The name does not point at ``expected``, or moved meanwhile.
        """
        parsed = split_reference(reference)
        if not isinstance(parsed, Digest):
            self._remove_name(self.stores.name_key(tenant, *parsed), reference, expected)
            return (":".join(parsed),)
        if expected not in {None, parsed}:
            raise NameMoved(name=reference, expected=str(expected), actual=str(parsed))
        self.card(parsed, tenant=tenant)
        return tuple(
            self._shown(key)
            for key, pointer in self.pointers(tenant).items()
            if pointer.digest == parsed and self._drop(key, parsed)
        )

    def pointers(self, tenant: str) -> dict[str, Pointer]:
        """Return all of a tenant's names, by their keys, as they point now."""
        found, after = {}, ""
        while stamps := self.stores.refs.listing(
            self.stores.names(tenant), after=after, limit=1000
        ):
            after = stamps[-1].key
            for stamp in stamps:
                if ref := self.stores.refs.read(stamp.key):
                    found[stamp.key] = Pointer.of(ref)
        return found

    def entry(self, key: str, ref: Ref, *, tenant: str) -> AdapterEntry:
        """Return what a listing shows of the name at ``key``.

        Raises:
            AdapterNotFound: It points at an adapter without a card.
        """
        pointer = Pointer.of(ref)
        name, _, tag = key.removeprefix(self.stores.names(tenant)).rpartition(":")
        card = self.card(pointer.digest, tenant=tenant)
        return AdapterEntry(name=name, tag=tag, card=card, moved_at=pointer.moved_at)

    def _point(self, key: str, digest: Digest, *, expected: Digest | None, replace: bool) -> None:
        """Make ``key`` point at ``digest``, however many others move it meanwhile."""
        value = Pointer(digest=digest, moved_at=self._now()).to_bytes()
        for _ in range(_NUM_TRIES):
            ref = self.stores.refs.read(key)
            current = Pointer.of(ref).digest if ref else None
            if current == digest:
                return
            if expected is not None and current != expected:
                actual = str(current or _NOTHING)
                raise NameMoved(name=self._shown(key), expected=str(expected), actual=actual)
            if current is not None and expected is None and not replace:
                raise NameTaken(name=self._shown(key), actual=str(current))
            if self.stores.refs.write(key, value, expected=ref.version if ref else None):
                _log.info("%s points at %s, before at %s", key, digest, current or _NOTHING)
                return
        detail = f"{self._shown(key)} was moved by others {_NUM_TRIES} times meanwhile"
        raise SourceUnavailable(self.stores.refs.location, detail)

    def _remove_name(self, key: str, reference: str, expected: Digest | None) -> None:
        ref = self.stores.refs.read(key)
        if ref is None:
            raise AdapterNotFound(reference)
        current = Pointer.of(ref).digest
        if expected not in {None, current} or not self.stores.refs.delete(
            key, expected=ref.version
        ):
            raise self._moved(key, expected or current)
        _log.info("%s points at nothing, before at %s", key, current)

    def _moved(self, key: str, expected: Digest) -> NameMoved:
        ref = self.stores.refs.read(key)
        actual = str(Pointer.of(ref).digest) if ref else _NOTHING
        return NameMoved(name=self._shown(key), expected=str(expected), actual=actual)

    def _drop(self, key: str, digest: Digest) -> bool:
        """Take a name away if it still points at ``digest``; tell whether."""
        ref = self.stores.refs.read(key)
        if ref is None or Pointer.of(ref).digest != digest:
            return False
        return self.stores.refs.delete(key, expected=ref.version)

    def _put(self, tenant: str, bundle: bytes | Path, digest: Digest) -> None:
        """Store a bundle so that no sweep that is under way takes it away."""
        content = self.stores.content(tenant)
        is_stored = False
        while not is_stored:
            if isinstance(bundle, bytes):
                content.put_bytes(bundle)
            else:
                content.put_file(bundle)
            self.stores.spare(tenant, digest, now=self._now())
            is_stored = content.size_bytes(digest) is not None

    def _keep_card(self, tenant: str, card: AdapterCard) -> None:
        """Store a card; the first one of an adapter stays, since it says where it came from."""
        self.stores.refs.write(
            self.stores.card_key(tenant, card.digest), card.to_bytes(), expected=None
        )

    def _remember(self, tenant: str, card: AdapterCard) -> None:
        if len(self._cards) >= _MAX_CARDS:
            self._cards.clear()
        self._cards[tenant, card.digest] = card

    def _shown(self, key: str) -> str:
        return key.split("/", maxsplit=2)[2]
