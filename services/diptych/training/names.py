"""Where the names of what was trained are kept; no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, FieldViolation, InvalidRequest, SettingInvalid
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs, S3Refs
from diptych.storage.tiers import open_files

__all__ = ["ResultNames", "missing_start", "open_adapters"]

ADAPTER_METHODS: Final = frozenset({"lora", "dora"})
CACHE_BYTES: Final = 16 << 30
"""Of adapters on this machine's disk in front of a bucket."""
SHA256: Final = "sha256:"


class ResultNames:
    """Moves an adapter's name in the registry.

    A whole expert has had its name moved by its worker: its bytes and its ref lie in one folder.
    """

    def __init__(self, registry: Registry) -> None:
        """Move names in ``registry``."""
        self._registry = registry

    def point(self, tenant: str, spec: str, result: Mapping[str, object]) -> None:
        """Make the name mean the adapter, whatever it meant before.

        Raises:
            InvalidRequest: The result tells no single adapter.
            AdapterNotFound: Its bytes are not in the store.
            SourceUnavailable: The store does not answer.
        """
        if json.loads(spec)["method"] not in ADAPTER_METHODS:
            return
        digests = result.get("digests")
        different = set(digests.values()) if isinstance(digests, Mapping) else set()
        if len(different) != 1:
            problem = f"tells {len(different)} adapters, and a job makes one"
            raise InvalidRequest([FieldViolation(field="result.digests", description=problem)])
        digest = Digest(hex=str(different.pop()).removeprefix(SHA256))
        self._registry.move(str(result["name"]), digest, tenant=tenant, replace=True)


def missing_start(
    reference: str | None, registry: Registry, *, tenant: str
) -> list[FieldViolation]:
    """Return what is wrong with the adapter a job goes on from: that the tenant has none such.

    Raises:
        SourceUnavailable: The store does not answer.
    """
    if reference is None:
        return []
    try:
        registry.card(registry.resolve(reference, tenant=tenant), tenant=tenant)
    except AdapterNotFound:
        problem = f"{reference!r:.200}: no such adapter"
        return [FieldViolation(field="adapter.start_from", description=problem)]
    except InvalidRequest:
        return []  # ``rules`` tells what is wrong with its form
    return []


def open_adapters(home: Path, *, url: str | None, s3_endpoint: str | None) -> Registry:
    """Return the registry of adapters that inference serves from.

    Args:
        home: Folder of everything that services write, absolute.
        url: ``s3://BUCKET/PREFIX`` of the adapters; None is ``adapters`` under the home.
        s3_endpoint: S3 other than AWS.

    Raises:
        SettingInvalid: The folder cannot be made.
    """
    folder = home / "adapters"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder} cannot be made: {error.strerror}"
        raise SettingInvalid([FieldViolation(field="home", description=problem)]) from error
    stores = _in_folder(folder)
    if url is not None:
        stores = _in_bucket(url, S3Config(endpoint_url=s3_endpoint))
    files = open_files(stores.blobs, cache_dir=folder / "cache", limit_bytes=CACHE_BYTES)
    return Registry(stores, files)


def _in_folder(folder: Path) -> AdapterStores:
    return AdapterStores(blobs=LocalBlobs(folder / "blobs"), refs=LocalRefs(folder / "names"))


def _in_bucket(url: str, config: S3Config) -> AdapterStores:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store, prefix = S3Store(bucket, config), prefix.strip("/")
    return AdapterStores(
        blobs=S3Blobs(store, prefix=f"{prefix}/blobs"), refs=S3Refs(store, prefix=f"{prefix}/names")
    )
