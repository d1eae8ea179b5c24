"""Uploads on their way in: a private file in the store's folder, and nothing else.

The file is locked by this process, so one that a killed process left is told from one in use and
removed when the folder is opened again.
"""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from typing_extensions import override

from diptych.digest import Digest
from diptych.errors import DigestMismatch, FieldViolation, InvalidRequest
from diptych.inference.orders import Upload
from diptych.storage.partial import room, sweep_partials

__all__ = ["PrivateFile", "ReceivedFile", "open_folder"]

MODE: Final = 0o700


def open_folder(folder: Path) -> Path:
    """Make ``folder`` if it is not there, remove what killed processes left, and return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=MODE)
    sweep_partials(folder)
    return folder


class PrivateFile:
    """A file without a lasting name that grows by ``write``; gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="incoming-")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.path = Path(name)
        self.size_bytes = 0
        self._stream = os.fdopen(descriptor, "wb", buffering=0)
        self._hash = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Append ``piece``.

        Raises:
            StoreFull: There is no room.
        """
        with room(str(self.path.parent), self.size_bytes + len(piece)):
            rest = memoryview(piece)
            while rest:
                rest = rest[self._stream.write(rest) :]
        self._hash.update(piece)
        self.size_bytes += len(piece)

    def seal(self) -> Digest:
        """Return the digest of all that was written."""
        return Digest(hex=self._hash.hexdigest())

    def close(self) -> None:
        """Remove the file; does no harm a second time."""
        self.path.unlink(missing_ok=True)
        self._stream.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


class ReceivedFile(PrivateFile):
    """A private file that takes just what was announced."""

    def __init__(self, folder: Path, announced: Upload) -> None:
        super().__init__(folder)
        self._announced = announced

    @override
    def write(self, piece: bytes) -> None:
        """Append ``piece``.

        Raises:
            InvalidRequest: More comes than was announced, or nothing.
            StoreFull: There is no room.
        """
        size_bytes = self.size_bytes + len(piece)
        if not piece:
            raise _refused("is empty")
        if size_bytes > self._announced.size_bytes:
            raise _refused(f"{size_bytes} bytes came, announced were {self._announced.size_bytes}")
        super().write(piece)

    @override
    def seal(self) -> Digest:
        """Return the digest of what came, if it is all that was announced.

        Raises:
            InvalidRequest: Less came.
            DigestMismatch: Something else came.
        """
        digest = super().seal()
        if self.size_bytes != self._announced.size_bytes:
            came, announced = self.size_bytes, self._announced.size_bytes
            raise _refused(f"{came} bytes came, announced were {announced}")
        if self._announced.sha256 and self._announced.sha256.hex() != digest.hex:
            expected = Digest(hex=self._announced.sha256.hex())
            raise DigestMismatch(expected=str(expected), actual=str(digest))
        return digest


def _refused(description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field="chunk", description=description)])
