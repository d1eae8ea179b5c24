"""Where this server's adapters lie, as its settings say: a folder, or a bucket with a cache."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from diptych.adapters.registry import Registry
from diptych.adapters.sources import Fetched, SourcePolicy, fetch
from diptych.adapters.stores import AdapterStores
from diptych.errors import FieldViolation, InvalidRequest, SettingInvalid
from diptych.inference.settings import Settings
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs, S3Refs
from diptych.storage.tiers import HeldFiles, open_files

__all__ = ["adapters_dir", "fetches", "open_registry"]


def adapters_dir(settings: Settings) -> Path:
    """Return the folder of adapters on this machine, absolute."""
    own = settings.inference.adapters_dir
    return (own or settings.home / "adapters").expanduser().absolute()


def open_registry(settings: Settings) -> tuple[Registry, HeldFiles]:
    """Return the registry of adapters, and the files it keeps on this machine's disk.

    Raises:
        SettingInvalid: The folder cannot be made.
    """
    own, folder = settings.inference, adapters_dir(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        description = f"{folder} cannot be made: {error.strerror}"
        violation = FieldViolation(field="inference.adapters_dir", description=description)
        raise SettingInvalid([violation]) from error
    stores = _in_bucket(settings) if own.adapters_store else _in_folder(folder)
    files = open_files(stores.blobs, cache_dir=folder / "cache", limit_bytes=own.adapter_disk_bytes)
    return Registry(stores, files), files


def fetches(
    settings: Settings,
) -> Callable[[str, Callable[[], None]], AbstractContextManager[Fetched]]:
    """Return what fetches the uris that callers may name."""
    own = settings.inference
    policy = SourcePolicy(
        import_root=own.adapter_import_dir,
        s3_prefixes=own.adapter_import_prefixes,
        allows_hub=own.adapter_import_hub,
        max_bytes=own.adapter_max_bytes,
        hub_endpoint=own.hub_endpoint,
        s3=S3Config(endpoint_url=own.s3_endpoint),
    )
    folder = adapters_dir(settings) / "fetching"

    def fetch_uri(uri: str, go_on: Callable[[], None]) -> AbstractContextManager[Fetched]:
        return fetch(_checked_uri(uri), folder, policy, check=go_on)

    return fetch_uri


def _checked_uri(uri: str) -> str:
    """Return ``uri`` as ``fetch`` reads it: a file's is its path alone."""
    if uri.startswith("file:"):
        return uri.removeprefix("file:").removeprefix("//")
    if uri.startswith(("s3://", "hf://")):
        return uri
    description = f"{uri[:80]!r} begins with none of s3://, hf:// and file:"
    raise InvalidRequest([FieldViolation(field="header.uri", description=description)])


def _in_folder(folder: Path) -> AdapterStores:
    return AdapterStores(blobs=LocalBlobs(folder / "blobs"), refs=LocalRefs(folder / "names"))


def _in_bucket(settings: Settings) -> AdapterStores:
    own = settings.inference
    assert own.adapters_store is not None
    bucket, _, prefix = own.adapters_store.removeprefix("s3://").partition("/")
    store = S3Store(bucket, S3Config(endpoint_url=own.s3_endpoint))
    prefix = prefix.strip("/")
    return AdapterStores(
        blobs=S3Blobs(store, prefix=f"{prefix}/blobs"), refs=S3Refs(store, prefix=f"{prefix}/names")
    )
