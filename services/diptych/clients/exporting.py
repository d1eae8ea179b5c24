"""An export's stream becomes files: all of them, checked, or none."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Final, Self

from diptych.clients.adapter_values import OnProgress
from diptych.errors import FieldViolation, InvalidRequest, ResponseCorrupt
from diptych.v1 import adapters_pb2 as pb

__all__ = ["ExportWriter"]

MAX_EXPORT_BYTES: Final = 16 << 30
MAX_FILES: Final = 64
FILE_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What a file was announced to be."""

    name: str
    size_bytes: int
    sha256: bytes


class ExportWriter:
    """Gathers files in a folder beside ``out`` and moves them there when they are whole.

    An ``out`` that ends in ``.safetensors`` becomes a file, where the export is a single one;
    any other becomes a folder, which must not be there yet. Owned by the loop that reads the
    stream; use it in a ``with``.
    """

    def __init__(self, out: Path, progress: OnProgress | None = None) -> None:
        """Make the private folder.

        Raises:
            InvalidRequest: ``out`` cannot be written, or is there already.
        """
        self._out = out
        self._is_file = out.suffix == FILE_SUFFIX
        self._progress = progress
        self._files: list[str] = []
        self._file: _Expected | None = None
        self._stream: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size_bytes = self._total_bytes = 0
        if out.is_dir() if self._is_file else out.exists():
            raise _refused(f"{out} is there already")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=".diptych-"))
        except OSError as error:
            raise _refused(f"cannot write {out}: {error.strerror or error}") from error

    def feed(self, message: pb.ExportAdapterResponse) -> None:
        """Take the next message.

        Raises:
            ResponseCorrupt: It contradicts those before it, or its own promises.
            InvalidRequest: The files cannot be written here.
        """
        kind = message.WhichOneof("part")
        if kind == "file":
            file = message.file
            self.begin(file.name, size_bytes=file.size_bytes, sha256=file.sha256)
        elif kind == "chunk":
            self.append(message.chunk)

    def begin(self, name: str, *, size_bytes: int, sha256: bytes) -> None:
        """Open the next file, ``name`` in the folder; raises what ``feed`` does."""
        with self._writing():
            self._begin(_Expected(name=name, size_bytes=size_bytes, sha256=sha256))

    def append(self, chunk: bytes) -> None:
        """Take the next bytes of the file that is open; raises what ``feed`` does."""
        with self._writing():
            self._append(chunk)

    def finish(self) -> list[Path]:
        """Move the files where they belong and return their paths.

        Raises:
            ResponseCorrupt: The stream ended before the last file did.
            InvalidRequest: ``out`` cannot hold them.
        """
        self._end()
        if not self._files:
            raise ResponseCorrupt("an export without files")
        try:
            if not self._is_file:
                self._folder.chmod(0o755)
                self._folder.rename(self._out)
                return [self._out / name for name in self._files]
            if len(self._files) > 1:
                names = ", ".join(self._files)
                raise _refused(f"the export has several files ({names}); name a folder")
            (self._folder / self._files[0]).replace(self._out)
        except OSError as error:
            raise _refused(f"cannot write {self._out}: {error.strerror or error}") from error
        return [self._out]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not moved."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _refused(f"cannot write {self._out}: {error.strerror or error}") from error

    def _begin(self, file: "_Expected") -> None:
        self._end()
        path = PurePosixPath(file.name)
        is_plain = path.parts and not path.is_absolute() and ".." not in path.parts
        if not is_plain or "\\" in file.name or "\0" in file.name or file.name in self._files:
            raise ResponseCorrupt(f"a file named {file.name!r:.80}")
        self._total_bytes += file.size_bytes
        if not 0 <= file.size_bytes <= self._total_bytes <= MAX_EXPORT_BYTES:
            raise ResponseCorrupt(f"file {file.name} claims {file.size_bytes} bytes")
        if len(self._files) == MAX_FILES:
            raise ResponseCorrupt(f"more than {MAX_FILES} files")
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._stream = target.open("xb")
        self._file, self._size_bytes, self._hash = file, 0, hashlib.sha256()
        self._files.append(file.name)

    def _append(self, chunk: bytes) -> None:
        if self._file is None or self._stream is None:
            raise ResponseCorrupt("bytes before the first file")
        self._size_bytes += len(chunk)
        if self._size_bytes > self._file.size_bytes:
            raise ResponseCorrupt(f"file {self._file.name} exceeds {self._file.size_bytes} bytes")
        self._stream.write(chunk)
        self._hash.update(chunk)
        if self._progress is not None:
            self._progress(self._size_bytes, self._file.size_bytes)

    def _end(self) -> None:
        """Check the file that is open, if one is."""
        if self._file is None or self._stream is None:
            return
        self._stream.close()
        if self._size_bytes < self._file.size_bytes:
            came, size_bytes = self._size_bytes, self._file.size_bytes
            raise ResponseCorrupt(f"file {self._file.name} ends at byte {came} of {size_bytes}")
        if self._hash.digest() != self._file.sha256:
            raise ResponseCorrupt(f"file {self._file.name} does not have its digest")
        self._file = self._stream = None


def _refused(description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field="out", description=description)])
