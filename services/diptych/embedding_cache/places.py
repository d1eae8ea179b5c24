"""Where the settings keep embeddings; needs no networks."""

from diptych.embedding_cache.settings import Settings
from diptych.embeddings.tiers import StoreConfig
from diptych.rpc.auth import DEFAULT_TENANT

__all__ = ["store_config"]


def store_config(settings: Settings, *, tenant: str = DEFAULT_TENANT) -> StoreConfig:
    """Return where a tenant's embeddings are kept."""
    own = settings.cache
    return StoreConfig(
        folder=own.dir or settings.home / "embeddings",
        s3_uri=own.store,
        s3_endpoint=own.s3_endpoint,
        namespace=tenant,
        memory_bytes=own.memory_bytes,
        disk_bytes=own.disk_bytes,
    )
