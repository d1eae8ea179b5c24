"""A server's warm-ups: its own encoders and stores, and only data that its settings allow."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from diptych.datasets.places import Places
from diptych.embedding_cache.claims import Claims, open_claims
from diptych.embedding_cache.local_engine import LocalEngine
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.ports import Encoding, Stage
from diptych.embedding_cache.settings import Settings
from diptych.embedding_cache.stores import TenantStores
from diptych.embedding_cache.warm import WarmConfig, Warmer

__all__ = ["claims_of", "facts_file", "server_places", "serving_warmer"]

S3: Final = "s3://"


def serving_warmer(
    settings: Settings, encodings: Mapping[Stage, Encoding], stores: TenantStores
) -> Warmer | None:
    """Return what warms up for manifests of callers; None where the settings allow no data."""
    own = settings.cache
    if own.dataset_dir is None and not own.dataset_prefixes:
        return None
    return Warmer(
        encodings,
        store_of=stores.of,
        claims_of=partial(claims_of, settings),
        engine_of=partial(LocalEngine, encodings),
        config=WarmConfig(
            folder=own.dataset_dir or settings.home,
            places=server_places(settings),
            facts=facts_file(settings),
        ),
    )


def server_places(settings: Settings) -> Places:
    """Return what a manifest of a caller may name: folders and buckets of the settings, no more."""
    own = settings.cache
    return Places(
        roots=() if own.dataset_dir is None else (own.dataset_dir,),
        buckets=tuple(one.removeprefix(S3) for one in own.dataset_prefixes if one.startswith(S3)),
        hub=False,
        urls=False,
    )


def claims_of(settings: Settings, tenant: str, dataset: str) -> Claims:
    """Return a tenant's claims on the work of a dataset, beside its embeddings."""
    return open_claims(store_config(settings, tenant=tenant), dataset)


def facts_file(settings: Settings) -> Path:
    """Return the file that remembers images between runs."""
    return settings.home / "datasets" / "facts.sqlite"
