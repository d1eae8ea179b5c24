"""Files of an adapter by a user's name for them: a path, ``s3://``, ``hf://`` or ``https://``.

Who asks decides what may be asked for: a policy names the folder, buckets and servers. Only
``.safetensors`` files and PEFT's configuration are ever read. They lie in a folder of their own
as long as the caller needs them; what a killed process left goes with the next fetch.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from ssl import SSLContext
from typing import Final, Self

from diptych.adapters.offers import Offer, wanted
from diptych.adapters.remote_sources import from_bucket, from_hub, from_web
from diptych.errors import (
    AdapterInvalid,
    AdapterNotFound,
    FieldViolation,
    InvalidRequest,
    PickleRefused,
    SourceUnavailable,
)
from diptych.storage.partial import room
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.tensor_header import PICKLE_SUFFIXES

__all__ = ["Fetched", "SourcePolicy", "fetch"]

_PIECE_BYTES: Final = 2**20
_SCHEME: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_BUCKET: Final = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<key>.*)")
_HUB: Final = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(/(?P<path>[^@]+))?(@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """What may be fetched, and how much of it; nothing by default."""

    import_root: Path | None = None
    """Paths must lead below this folder, links followed; None allows no paths."""
    s3_prefixes: tuple[str, ...] = ()
    """``s3://bucket/prefix/`` of what may be read with this process's credentials."""
    allows_hub: bool = False
    https_hosts: frozenset[str] = frozenset()
    """``host`` or ``host:port`` of servers that may be asked, redirects included."""
    max_bytes: int = 4 * 2**30
    """Of all files of one adapter together."""
    timeout_s: float = 900.0
    """For one adapter; looked at with each piece, for which a source has ten seconds or what
    ``s3`` says."""
    hub_endpoint: str | None = None
    s3: S3Config = field(default_factory=S3Config)
    tls: SSLContext | None = None
    """What certificates are trusted; None trusts what the system does."""

    @classmethod
    def of_owner(cls) -> Self:
        """Return what the user of this machine may: any file, bucket and repository."""
        return cls(import_root=Path("/"), s3_prefixes=("s3://",), allows_hub=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Files that are here: one, or a folder of several."""

    path: Path
    source: str
    """Where they came from, without folders of this machine, a hub's revision as its commit."""


@contextmanager
def fetch(
    uri: str,
    cache_dir: Path,
    policy: SourcePolicy,
    *,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Fetched]:
    """Yield the files that ``uri`` names; they are gone when the context ends.

    ``uri`` is a path (of a file or folder, relative to the policy's root),
    ``s3://bucket/key`` (``/`` at the end for a folder), ``hf://owner/name[/path][@revision]`` or
    ``https://host/file.safetensors``. ``check`` is called with each piece; what it raises ends
    the fetch.

    Raises:
        InvalidRequest: ``uri`` is none of these, or the policy does not allow it.
        AdapterNotFound: There is nothing of that name.
        PickleRefused: It is a pickle, by its name.
        AdapterInvalid: It holds no weights, or more than the policy's bytes.
        StoreFull: This machine's disk has no room for it.
        SourceUnavailable: The source does not answer, or not in time, or with damaged bytes.
    """
    deadline = time.monotonic() + policy.timeout_s
    if PurePosixPath(uri).suffix.lower() in PICKLE_SUFFIXES:
        raise PickleRefused(uri, PurePosixPath(uri).name)
    source, offers = _offers(uri, policy)
    chosen = wanted(uri, offers)
    with _folder(cache_dir) as folder:
        left_bytes = policy.max_bytes

        def checked(pieces: Iterator[bytes]) -> Iterator[bytes]:
            nonlocal left_bytes
            for piece in pieces:
                check()
                left_bytes -= len(piece)
                if left_bytes < 0:
                    raise AdapterInvalid(uri, f"has more than {policy.max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise SourceUnavailable(uri, f"took longer than {policy.timeout_s:g} s")
                yield piece

        if sum(offer.size_bytes or 0 for offer in chosen) > policy.max_bytes:
            raise AdapterInvalid(uri, f"has more than {policy.max_bytes} bytes")
        for offer in chosen:
            _write(uri, offer, folder / offer.name, checked)
        is_file = len(offers) == 1 and "/" not in chosen[0].name and not uri.endswith("/")
        yield Fetched(path=folder / chosen[0].name if is_file else folder, source=source)


def _offers(uri: str, policy: SourcePolicy) -> tuple[str, list[Offer]]:
    """Return where ``uri`` leads, as may be shown to all, and what is offered there."""
    match = _SCHEME.fullmatch(uri)
    scheme, rest = match.group("scheme", "rest") if match else ("file", uri)
    if scheme == "file":
        return _local(rest, policy)
    if scheme == "s3" and (found := _BUCKET.fullmatch(rest)):
        if not any(uri.startswith(prefix) for prefix in policy.s3_prefixes):
            raise _invalid("is not below a prefix that may be read")
        return uri, from_bucket(uri, S3Store(found["bucket"], policy.s3), found["key"])
    if scheme == "hf" and (found := _HUB.fullmatch(rest)):
        if not policy.allows_hub:
            raise _invalid("hub repositories are not allowed here")
        path, revision = (found["path"] or "").strip("/"), found["revision"] or "main"
        commit, offers = from_hub(
            uri, found["repository"], path, revision=revision, endpoint=policy.hub_endpoint
        )
        return f"{uri.partition('@')[0]}@{commit}", offers
    if scheme == "https":
        if not policy.https_hosts:
            raise _invalid("https addresses are not allowed here")
        return uri.partition("?")[0], from_web(uri, hosts=policy.https_hosts, context=policy.tls)
    raise _invalid("is no path, s3://bucket/key, hf://owner/name or https:// address")


def _local(path: str, policy: SourcePolicy) -> tuple[str, list[Offer]]:
    """Return the file at ``path`` or what the folder there holds, if it is below the root."""
    if policy.import_root is None:
        raise _invalid("paths are not allowed here")
    root = policy.import_root.resolve()
    try:
        real = (root / path).resolve(strict=True)
        real.relative_to(root)
    except (OSError, ValueError, RuntimeError) as error:
        raise AdapterNotFound(path) from error
    names = _names(real) if real.is_dir() else [""]
    targets = {name: (real / name).resolve() for name in names}
    return real.name, [
        Offer(
            name=name or real.name,
            read=partial(_file_pieces, root, target.relative_to(root), path),
        )
        for name, target in targets.items()
        if target.is_relative_to(root)
    ]


def _names(folder: Path) -> list[str]:
    """Return the names of a folder's files and of its folders' files."""
    paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def _file_pieces(root: Path, relative: Path, shown: str) -> Iterator[bytes]:
    """Yield a file's bytes, opened part by part from ``root`` so that no link leads elsewhere."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in relative.parts:
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AdapterNotFound(shown)
        while piece := os.read(descriptor, _PIECE_BYTES):
            yield piece
    except OSError as error:
        raise AdapterNotFound(shown) from error
    finally:
        os.close(descriptor)


def _write(
    uri: str, offer: Offer, path: Path, checked: Callable[[Iterator[bytes]], Iterator[bytes]]
) -> None:
    """Write what is offered to ``path``; compare it with what the source says that it is."""
    found, size_bytes = hashlib.sha256(), 0
    with room(str(path.parent), offer.size_bytes or 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            for piece in checked(offer.read()):
                found.update(piece)
                size_bytes += stream.write(piece)
    if offer.size_bytes not in {None, size_bytes} or offer.sha256 not in {None, found.hexdigest()}:
        detail = f"{offer.name} arrived with {size_bytes} bytes that are not what was listed"
        raise SourceUnavailable(uri, detail)


@contextmanager
def _folder(cache_dir: Path) -> Iterator[Path]:
    """Yield a new folder, locked so that nobody sweeps it, and remove it afterwards."""
    with room(str(cache_dir), 0):
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir)
        folder, descriptor = _locked_folder(cache_dir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(cache_dir: Path) -> tuple[Path, int]:
    while True:
        folder = cache_dir / f"fetch-{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)  # swept between its creation and its lock


def _sweep(cache_dir: Path) -> None:
    """Remove the folders whose process died."""
    for folder in cache_dir.glob("fetch-*"):
        with suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _invalid(description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field="uri", description=description)])
