"""Claims: those who warm one dataset at once share its work instead of doing it twice.

An optimisation and nothing more: who cannot claim, or loses a claim, encodes all the same, and the
same embedding twice is harmless. On a disk a claim is a file that the kernel locks, so that it goes
with its process, whatever ends it. In a bucket it is an object changed by conditional writes and
renewed while its owner lives; whoever sees it unchanged for long enough by his own clock takes it.
"""

import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self

from diptych.digest import canonical_bytes
from diptych.embeddings.packs import Packs
from diptych.embeddings.tiers import StoreConfig, bucket_of
from diptych.errors import DiptychError
from diptych.storage.blobs import check_key
from diptych.storage.refs import Ref, RefStore

__all__ = ["Claim", "Claims", "LocalClaims", "NoClaims", "RefClaims", "open_claims", "sweep_claims"]

_log = logging.getLogger(__name__)

_FOLDER: Final = "claims"
_MAX_SWEPT: Final = 1000
_RELEASED: Final = b"released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Work that is this process's to do, until the ``with`` it is used in ends."""

    is_first: bool
    """Whether nobody claimed it before; somebody who did may have done it since one looked."""
    release: Callable[[], None]

    def __enter__(self) -> Self:
        """Return the claim."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()


class Claims(Protocol):
    """The claims on one dataset's work; safe to use from many threads."""

    poll_s: float
    """How often to look whether a claim that another has is free."""

    def take(self, name: str) -> Claim | None:
        """Return the claim ``name``, None if somebody else has it, in this process or not."""

    def close(self) -> None:
        """Let go of what is still held."""


class NoClaims:
    """For one who works alone."""

    poll_s = 0.1

    def take(self, name: str) -> Claim | None:
        """Return a claim that means nothing."""
        del name
        return _unshared()

    def close(self) -> None:
        """Do nothing."""


class LocalClaims:
    """Locked files in one folder, for the processes of one machine."""

    poll_s = 0.2

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str) -> Claim | None:
        """Lock the file ``name``; where files cannot be locked, everybody has every claim."""
        path = self._folder / check_key(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            _log.warning("work is not shared: %s", error)
            return _unshared()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_first = not os.pread(descriptor, 1, 0)
            os.pwrite(descriptor, b"1", 0)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            _log.warning("work is not shared: %s", error)
            return _unshared()
        return Claim(is_first=is_first, release=partial(os.close, descriptor))

    def close(self) -> None:
        """Do nothing: each claim has a file of its own."""


@dataclass(slots=True)
class _Seen:
    """Another's claim as it was seen first in this version."""

    version: str
    since_s: float


class RefClaims:
    """Small values changed by compare-and-swap, for many machines.

    Owns a thread that renews what is held, at a third of ``expiry_s``.
    """

    poll_s = 2.0

    def __init__(
        self,
        refs: RefStore,
        *,
        folder: str,
        expiry_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refs, self._folder = refs, check_key(folder)
        self._expiry_s, self._clock = expiry_s, clock
        self._held: dict[str, Ref] = {}
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        """Guards what is above, and orders the writes of one claim."""
        self._is_closed = threading.Event()
        self._renewer = threading.Thread(target=self._renew_for_ever, name="claims", daemon=True)
        self._renewer.start()

    def take(self, name: str) -> Claim | None:
        """Write the claim where it is free, or was not renewed for ``expiry_s``."""
        key = f"{self._folder}/{name}"
        try:
            found = self._refs.read(key)
            if found is not None and found.value != _RELEASED and not self._is_dead(found):
                return None
            with self._lock:
                expected = found.version if found else None
                taken = self._refs.write(key, _mark(), expected=expected)
                if taken is None:
                    return None
                self._held[key] = taken
        except DiptychError as error:
            _log.warning("work is not shared: %s", error)
            return _unshared()
        return Claim(is_first=found is None, release=partial(self._release, key))

    def renew(self) -> None:
        """Show that what is held is still worked on; what was lost to another is forgotten."""
        with self._lock:
            for key, ref in list(self._held.items()):
                with suppress(DiptychError):
                    renewed = self._refs.write(key, _mark(), expected=ref.version)
                    if renewed is None:
                        del self._held[key]
                    else:
                        self._held[key] = renewed

    def close(self) -> None:
        """Release what is held and end the thread."""
        self._is_closed.set()
        self._renewer.join()
        for key in list(self._held):
            self._release(key)

    def _is_dead(self, ref: Ref) -> bool:
        """Tell whether another's claim has not changed for long, as this process saw it."""
        now_s = self._clock()
        with self._lock:
            if ref.key in self._held:
                return False
            seen = self._seen.get(ref.key)
            if seen is None or seen.version != ref.version:
                self._seen[ref.key] = _Seen(ref.version, now_s)
                return False
            return now_s - seen.since_s >= self._expiry_s

    def _release(self, key: str) -> None:
        with self._lock:
            ref = self._held.pop(key, None)
            self._seen.pop(key, None)
            if ref is not None:
                with suppress(DiptychError):  # it expires
                    self._refs.write(key, _RELEASED, expected=ref.version)

    def _renew_for_ever(self) -> None:
        while not self._is_closed.wait(self._expiry_s / 3):
            self.renew()


def open_claims(config: StoreConfig, name: str) -> Claims:
    """Return the claims on the work ``name`` beside the packs that ``config`` says last.

    Raises:
        SettingInvalid: The S3 address is none.
    """
    folder = f"{config.namespace}/{_FOLDER}/{name}"
    if config.s3_uri is not None:
        from diptych.storage.s3_blobs import S3Refs  # noqa: PLC0415 - boto3 is an extra

        store, prefix = bucket_of(config)
        return RefClaims(S3Refs(store, prefix=prefix), folder=folder)
    return NoClaims() if config.folder is None else LocalClaims(config.folder / folder)


def sweep_claims(packs: Packs, *, older_than_s: float = 86_400.0) -> int:
    """Remove what old claims left beside ``packs``; return how many, a thousand at most.

    Raises:
        SourceUnavailable: The store does not answer.
    """
    old: list[str] = []
    now_s = packs.now_s()
    for info in packs.blobs.listing(f"{packs.namespace}/{_FOLDER}/"):
        if now_s - info.modified_s >= older_than_s and len(old) < _MAX_SWEPT:
            old.append(info.key)
    for key in old:
        packs.blobs.delete(key)
    return len(old)


def _unshared() -> Claim:
    return Claim(is_first=False, release=lambda: None)


def _mark() -> bytes:
    """Return what no other claim holds, so that each renewal is another version."""
    return canonical_bytes({"mark": secrets.token_hex(16)})
