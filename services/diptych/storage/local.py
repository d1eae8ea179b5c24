"""Blobs as files below one folder, for many processes at once."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from diptych.errors import BlobNotFound
from diptych.storage.blobs import PIECE_BYTES, BlobInfo, check_key, folder_of
from diptych.storage.partial import room, sweep_partials, write_whole

__all__ = ["LocalBlobs"]

_PARTIALS: Final = ".partial"
"""No key has a part that begins with a dot."""


class LocalBlobs:
    """A folder that owns everything below it; what a killed writer left goes when it is opened."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._root.mkdir(parents=True, exist_ok=True)
        sweep_partials(self._root / _PARTIALS)

    @property
    def location(self) -> str:
        """Return the folder."""
        return str(self._root)

    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        """Write beside the final name, sync, then rename."""
        return write_whole(self.local_path(key), pieces, partials=self._root / _PARTIALS)

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes; a file that is replaced or removed meanwhile is read to its end."""
        try:
            stream = self.local_path(key).open("rb")
        except FileNotFoundError as error:
            raise BlobNotFound(key) from error
        with stream:
            stream.seek(start)
            left = size_bytes
            while piece := stream.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES)):
                left = None if left is None else left - len(piece)
                yield piece

    def find(self, key: str) -> BlobInfo | None:
        """Return a file's size."""
        return _info(key, self.local_path(key))

    def listing(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield the files in order of their keys."""
        for key in sorted(self._keys(prefix)):
            if info := _info(key, self._root / key):
                yield info

    def delete(self, key: str) -> None:
        """Unlink the file."""
        self.local_path(key).unlink(missing_ok=True)

    def move(self, key: str, to: str) -> None:
        """Rename the file."""
        final = self.local_path(to)
        with room(self.location, 0):
            final.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.local_path(key).replace(final)
        except FileNotFoundError as error:
            raise BlobNotFound(key) from error

    def local_path(self, key: str) -> Path:
        """Return the file of ``key``."""
        return self._root / check_key(key)

    def _keys(self, prefix: str) -> Iterator[str]:
        for folder, subfolders, names in os.walk(self._root / folder_of(prefix)):
            subfolders[:] = [name for name in subfolders if name != _PARTIALS]
            relative = Path(folder).relative_to(self._root)
            for name in names:
                key = (relative / name).as_posix()
                if key.startswith(prefix):
                    yield key


def _info(key: str, path: Path) -> BlobInfo | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return BlobInfo(key=key, size_bytes=status.st_size, modified_s=status.st_mtime)
