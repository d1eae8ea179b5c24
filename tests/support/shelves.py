"""Registries for tests: cards of made-up adapters, and registries over every kind of store."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diptych.adapters.card import AdapterCard
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.digest import Digest
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.memory import MemoryBlobs, MemoryRefs
from diptych.storage.s3 import S3Store
from diptych.storage.s3_blobs import S3Blobs, S3Refs
from diptych.storage.tiers import DirectFiles, DiskTier

__all__ = ["NOON", "card_of", "in_bucket", "in_folder", "in_memory", "published"]

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
_TIER_BYTES = 2**20


def card_of(bundle: bytes, **fields: Any) -> AdapterCard:
    """Return a card that belongs to ``bundle``."""
    defaults: dict[str, Any] = {"created_at": NOON, "source": "test", "size_bytes": len(bundle)}
    return AdapterCard(digest=Digest.of_bytes(bundle), **(defaults | fields))


def published(registry: Registry, name: str, bundle: bytes, **arguments: Any) -> Digest:
    """Publish ``bundle`` with a plain card."""
    return registry.publish(name, bundle, card_of(bundle), **arguments)


def in_memory(tier: Path, *, now: Callable[[], datetime] = lambda: NOON) -> Registry:
    """Return an empty registry in memory; files it hands out are cached in ``tier``."""
    stores = AdapterStores(blobs=MemoryBlobs(), refs=MemoryRefs())
    return Registry(stores, DiskTier(tier, limit_bytes=_TIER_BYTES), now=now)


def in_folder(root: Path) -> Registry:
    """Return the registry of a folder."""
    stores = AdapterStores(blobs=LocalBlobs(root / "blobs"), refs=LocalRefs(root / "refs"))
    return Registry(stores, DirectFiles(), now=lambda: NOON)


def in_bucket(store: S3Store, prefix: str, tier: Path) -> Registry:
    """Return the registry below a prefix of a bucket."""
    stores = AdapterStores(
        blobs=S3Blobs(store, prefix=f"{prefix}/blobs"), refs=S3Refs(store, prefix=f"{prefix}/refs")
    )
    return Registry(stores, DiskTier(tier, limit_bytes=_TIER_BYTES), now=lambda: NOON)
