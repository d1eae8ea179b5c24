"""Where adapters lie: the keys of names, cards, marks and bytes, each tenant's apart."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from diptych.adapters.naming import check_name, check_tag, check_tenant
from diptych.digest import Digest, canonical_bytes
from diptych.errors import SourceUnavailable
from diptych.storage.blobs import BlobStore
from diptych.storage.cas import ContentStore
from diptych.storage.refs import Ref, RefStore

__all__ = ["GRACE", "AdapterStores", "Mark", "Pointer"]

GRACE: Final = timedelta(hours=1)
"""Longer than a publisher needs from the end of its upload to its name, or a sweep for one blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What a name and tag hold: the digest they point at and since when."""

    digest: Digest
    moved_at: datetime

    def to_bytes(self) -> bytes:
        """Return the value that a ref holds."""
        return canonical_bytes({"digest": str(self.digest), "moved_at": _text(self.moved_at)})

    @classmethod
    def of(cls, ref: Ref) -> "Pointer":
        """Return what ``ref`` holds."""
        plain = json.loads(ref.value)
        digest = Digest(hex=plain["digest"].removeprefix("sha256:"))
        return cls(digest=digest, moved_at=datetime.fromisoformat(plain["moved_at"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """That nothing named a blob at some moment; ``is_going`` once it is being removed."""

    since: datetime
    is_going: bool = False

    def to_bytes(self) -> bytes:
        """Return the value that a ref holds."""
        return canonical_bytes({"since": _text(self.since), "is_going": self.is_going})

    @classmethod
    def of(cls, ref: Ref) -> "Mark":
        """Return what ``ref`` holds."""
        plain = json.loads(ref.value)
        return cls(since=datetime.fromisoformat(plain["since"]), is_going=plain["is_going"])


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStores:
    """A blob store and a ref store, and what is called what in them."""

    blobs: BlobStore
    refs: RefStore

    def content(self, tenant: str) -> ContentStore:
        """Return the bytes of ``tenant``."""
        return ContentStore(self.blobs, namespace=check_tenant(tenant))

    def names(self, tenant: str, prefix: str = "") -> str:
        """Return what the keys of a tenant's names begin with."""
        return f"{check_tenant(tenant)}/names/{prefix}"

    def name_key(self, tenant: str, name: str, tag: str) -> str:
        """Return the key of a name's tag."""
        return f"{self.names(tenant)}{check_name(name)}:{check_tag(tag)}"

    def card_key(self, tenant: str, digest: Digest) -> str:
        """Return the key of an adapter's card."""
        return f"{check_tenant(tenant)}/cards/{digest.hex}"

    def marks(self, tenant: str) -> str:
        """Return what the keys of a tenant's marks begin with."""
        return f"{check_tenant(tenant)}/marks/"

    def mark_key(self, tenant: str, digest: Digest) -> str:
        """Return the key of the mark that a blob is about to be swept."""
        return f"{self.marks(tenant)}{digest.hex}"

    def spare(self, tenant: str, digest: Digest, *, now: datetime) -> None:
        """Take the mark off ``digest``, so that no sweep removes it before a grace has passed.

        Raises:
            SourceUnavailable: A sweep is removing it at this moment; store it again after that.
        """
        key = self.mark_key(tenant, digest)
        while ref := self.refs.read(key):
            mark = Mark.of(ref)
            if mark.is_going and now - mark.since < GRACE:
                raise SourceUnavailable(self.blobs.location, f"{digest} is being swept away")
            self.refs.delete(key, expected=ref.version)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
