"""Experts that were trained here: whole folders by their digest, and names that point at them.

::

    <experts_dir>/<tenant>/<name>/<digest>/   in diffusers' layout, never changed
    <experts_dir>/.refs/<tenant>/<name>:latest   the digest that the name means now
"""

import re
from pathlib import Path
from typing import Final

from diptych.digest import Digest
from diptych.errors import InvalidRequest, ModelNotFound, SourceUnavailable
from diptych.storage.blobs import check_key
from diptych.storage.local_refs import LocalRefs

__all__ = ["DEFAULT_TENANT", "PREFIX", "expert_folder", "find_expert", "point_at"]

PREFIX: Final = "experts/"
"""What a model's source begins with that means one of them."""
DEFAULT_TENANT: Final = "default"
_REFS: Final = ".refs"
_TAG: Final = "latest"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUM_TRIES: Final = 64


def expert_folder(
    experts_dir: Path, name: str, digest: Digest, *, tenant: str = DEFAULT_TENANT
) -> Path:
    """Return where an expert of this name and digest lies or may be put.

    Raises:
        InvalidRequest: ``name`` or ``tenant`` could lead elsewhere.
    """
    return experts_dir / check_key(f"{tenant}/{name}") / digest.hex


def find_expert(experts_dir: Path, name: str, *, tenant: str = DEFAULT_TENANT) -> Path:
    """Return the folder that ``name`` means now.

    Raises:
        ModelNotFound: It means nothing, or could lead elsewhere.
    """
    source = f"{PREFIX}{name}"
    # Without any expert there is nothing to look in, and looking makes no folder.
    if not (experts_dir / _REFS).is_dir():
        raise ModelNotFound(source, "no expert was trained here")
    try:
        ref = LocalRefs(experts_dir / _REFS).read(_key(name, tenant))
    except InvalidRequest as error:
        raise ModelNotFound(source, "is not an expert's name") from error
    if ref is None or not _DIGEST.fullmatch(text := ref.value.decode("ascii", "replace")):
        raise ModelNotFound(source, "no expert that was trained here has this name")
    folder = expert_folder(experts_dir, name, Digest(hex=text), tenant=tenant)
    if not folder.is_dir():
        raise ModelNotFound(source, f"its folder {folder} is gone")
    return folder


def point_at(experts_dir: Path, name: str, digest: Digest, *, tenant: str = DEFAULT_TENANT) -> None:
    """Let ``name`` mean the expert of this digest, whatever it meant before.

    Raises:
        InvalidRequest: ``name`` or ``tenant`` could lead elsewhere.
        SourceUnavailable: Others move the name all the time.
        StoreFull: There is no room.
    """
    refs = LocalRefs(experts_dir / _REFS)
    for _ in range(_NUM_TRIES):
        found = refs.read(_key(name, tenant))
        expected = None if found is None else found.version
        if refs.write(_key(name, tenant), digest.hex.encode(), expected=expected):
            return
    raise SourceUnavailable(refs.location, f"{name} was moved by others {_NUM_TRIES} times")


def _key(name: str, tenant: str) -> str:
    # A tag at the end keeps the names ``a`` and ``a/b`` apart on disk.
    return check_key(f"{tenant}/{name}:{_TAG}")
