"""A folder on this machine that holds the same files as a prefix of an object store.

A mirror is written beside its final name and renamed when it is complete and checked, so a
folder that can be seen is whole. Its name is the digest of what was listed: a changed object
gives another folder, and processes that mirror at the same time end with the same one.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from diptych.digest import Digest
from diptych.errors import CheckpointInvalid
from diptych.storage.base import ObjectStore, StoredObject

__all__ = ["mirror"]

_log = logging.getLogger(__name__)

_MANIFEST = ".mirror.json"
_NUM_DOWNLOADS = 4


def mirror(store: ObjectStore, objects: Sequence[StoredObject], *, prefix: str, root: Path) -> Path:
    """Return a folder under ``root`` with the ``objects``, named relative to ``prefix``.

    A folder already there is checked against the digests taken when it was written; one that
    does not pass is replaced.

    Raises:
        CheckpointInvalid: a key would be written outside the folder.
        SourceUnavailable: the store does not answer; nothing is left behind.
    """
    names = {stored.key: _relative_name(store, stored.key, prefix) for stored in objects}
    listing = [[names[item.key], item.size_bytes, item.etag] for item in objects]
    final = root / Digest.of_value([store.location, prefix, listing]).hex[:32]
    if _is_whole(final):
        return final
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=root, prefix=".partial-"))
    try:
        with ThreadPoolExecutor(_NUM_DOWNLOADS, thread_name_prefix="mirror") as pool:
            for done in [
                pool.submit(_fetch, store, stored, partial / names[stored.key])
                for stored in objects
            ]:
                done.result()
        digests = {name: Digest.of_file(partial / name).hex for name in names.values()}
        (partial / _MANIFEST).write_text(json.dumps(digests, indent=1, sort_keys=True))
        _publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("mirrored %d objects of %s/%s to %s", len(objects), store.location, prefix, final)
    return final


def _relative_name(store: ObjectStore, key: str, prefix: str) -> str:
    name = key.removeprefix(prefix).lstrip("/") or PurePosixPath(key).name
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise CheckpointInvalid(store.location, f"object key {key!r} leaves its folder")
    return name


def _fetch(store: ObjectStore, stored: StoredObject, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    store.download(stored, path)


def _is_whole(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _MANIFEST).read_bytes())
        return all(Digest.of_file(folder / name).hex == hex_ for name, hex_ in digests.items())
    except (OSError, ValueError):
        return False


def _publish(partial: Path, final: Path) -> None:
    """Rename ``partial`` to ``final``; keep a whole folder another process put there first."""
    try:
        partial.rename(final)
    except OSError:
        if _is_whole(final):
            return
        discarded = Path(tempfile.mkdtemp(dir=final.parent, prefix=".discarded-"))
        final.rename(discarded / "folder")
        partial.rename(final)
        shutil.rmtree(discarded, ignore_errors=True)
