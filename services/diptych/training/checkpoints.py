"""Checkpoints of a job: written whole, checked by digest, the latest so many kept.

::

    <store>/<expert's place>-<expert>/<step>/<part>.safetensors   weights, optimizer, ...
                                             state.json           all that is not a tensor
                                             manifest.json        sizes and digests; written last

A checkpoint without its manifest, or with a file that is not what the manifest says, does not
count: the one before it is taken, and the owner is told. Nothing older is removed before what was
written has been read back.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from torch import Tensor

from diptych.datasets.sampling import Position
from diptych.digest import Digest, canonical_bytes
from diptych.errors import (
    BlobCorrupt,
    BlobNotFound,
    CheckpointInvalid,
    DiptychError,
    ResumeMismatch,
)
from diptych.storage.blobs import BlobStore
from diptych.training.tensor_files import read_tensors, tensor_pieces

__all__ = ["Checkpoint", "Checkpoints", "Written"]

_log = logging.getLogger(__name__)

_MANIFEST: Final = "manifest.json"
_STATE: Final = "state.json"
_SUFFIX: Final = ".safetensors"

Warn = Callable[[str, str], None]
"""Takes a reason and a message."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a job stands: all that it needs to go on as if it had never stopped."""

    expert: str
    place: int
    """Of the expert in the order in which the job trains them, from 0."""
    step: int
    """Optimizer steps that are done."""
    position: Position
    is_finished: bool
    """Whether the expert is trained; the job goes on with the next."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By part - weights, optimizer, ema, ... - and name."""
    values: Mapping[str, Any]
    """What of the parts is no tensor, and other facts; plain JSON."""

    @property
    def name(self) -> str:
        """Return what the checkpoint is called in its store."""
        return f"{self.place}-{self.expert}/{self.step:010}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A checkpoint that is whole in its store."""

    name: str
    digest: Digest
    """Of its manifest, and so of all of it."""
    size_bytes: int


class Checkpoints:
    """The checkpoints of one job; only its one worker writes them."""

    def __init__(self, blobs: BlobStore, *, spec: Digest, keep: int, warn: Warn) -> None:
        """Use ``blobs``, which hold this job's checkpoints and nothing else.

        Args:
            blobs: Where they are.
            spec: Digest of what the job asked for.
            keep: How many of each expert stay.
            warn: Told of a checkpoint that is passed over.
        """
        self._blobs, self._spec, self._keep, self._warn = blobs, spec, keep, warn

    def write(self, checkpoint: Checkpoint) -> Written:
        """Write a checkpoint, read it back, then remove older ones.

        Raises:
            StoreFull: There is no room; all that was there before is there still.
            BlobCorrupt: What was read back is not what was written; as before.
            SourceUnavailable: The store does not answer; as before.
        """
        name = checkpoint.name
        try:
            files = self._write_files(checkpoint)
            for file, (digest, _) in files.items():
                self._check(f"{name}/{file}", digest)
            manifest = self._manifest(files)
            self._blobs.put(f"{name}/{_MANIFEST}", [manifest])
        except BaseException:
            with suppress(DiptychError):
                self._remove(name)
            raise
        self._prune(checkpoint)
        return Written(
            name=name,
            digest=Digest.of_bytes(manifest),
            size_bytes=len(manifest) + sum(size for _, size in files.values()),
        )

    def latest(self, expert: str | None = None) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, of one expert or of the last that has any.

        Raises:
            ResumeMismatch: It was written for another spec.
            SourceUnavailable: The store does not answer.
        """
        for name in reversed(self._names()):
            if expert is not None and _expert(name)[1] != expert:
                continue
            try:
                return self._read(name)
            except (BlobNotFound, BlobCorrupt, CheckpointInvalid) as error:
                _log.warning("checkpoint %s is passed over: %s", name, error)
                self._warn("CHECKPOINT_PASSED_OVER", f"checkpoint {name} is not whole: {error}")
        return None

    def _write_files(self, checkpoint: Checkpoint) -> dict[str, tuple[str, int]]:
        """Write all files but the manifest; return the digest and size of each."""
        state = {
            "step": checkpoint.step,
            "position": asdict(checkpoint.position),
            "is_finished": checkpoint.is_finished,
            "values": checkpoint.values,
        }
        files: dict[str, tuple[str, int]] = {}
        for part, tensors in checkpoint.tensors.items():
            file = part + _SUFFIX
            files[file] = self._put(f"{checkpoint.name}/{file}", tensor_pieces(tensors))
        text = json.dumps(state).encode()
        files[_STATE] = self._put(f"{checkpoint.name}/{_STATE}", iter([text]))
        return files

    def _put(self, key: str, pieces: Iterator[bytes]) -> tuple[str, int]:
        found = sha256()

        def hashed() -> Iterator[bytes]:
            for piece in pieces:
                found.update(piece)
                yield piece

        size_bytes = self._blobs.put(key, hashed())
        return found.hexdigest(), size_bytes

    def _manifest(self, files: Mapping[str, tuple[str, int]]) -> bytes:
        listed = {
            file: {"sha256": digest, "size_bytes": size} for file, (digest, size) in files.items()
        }
        return canonical_bytes({"spec": str(self._spec), "files": listed})

    def _read(self, name: str) -> Checkpoint:
        files = self._listed(name)
        for file, digest in files.items():
            self._check(f"{name}/{file}", digest)
        state = json.loads(b"".join(self._blobs.read(f"{name}/{_STATE}")))
        place, expert = _expert(name)
        return Checkpoint(
            expert=expert,
            place=place,
            step=state["step"],
            position=Position(**state["position"]),
            is_finished=state["is_finished"],
            tensors={
                file.removesuffix(_SUFFIX): read_tensors(self._blobs, f"{name}/{file}")
                for file in files
                if file.endswith(_SUFFIX)
            },
            values=state["values"],
        )

    def _listed(self, name: str) -> dict[str, str]:
        """Return the files of a checkpoint and their digests, as its manifest says."""
        try:
            manifest = json.loads(b"".join(self._blobs.read(f"{name}/{_MANIFEST}")))
            spec = manifest["spec"]
            files = {file: facts["sha256"] for file, facts in manifest["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointInvalid(name, f"its manifest is none: {error!r}") from error
        if spec != str(self._spec):
            raise ResumeMismatch(checkpoint=name, written_for=spec, asked=str(self._spec))
        return files

    def _check(self, key: str, digest: str) -> None:
        found = sha256()
        for piece in self._blobs.read(key):
            found.update(piece)
        if found.hexdigest() != digest:
            raise BlobCorrupt(digest=f"sha256:{digest}", actual=f"sha256:{found.hexdigest()}")

    def _names(self) -> list[str]:
        """Return what there is, whole or not, in the order in which it was trained."""
        keys = (info.key.rsplit("/", 1)[0] for info in self._blobs.listing(""))
        return sorted(dict.fromkeys(keys), key=_order)

    def _prune(self, newest: Checkpoint) -> None:
        """Remove all of an expert but the newest few.

        What is beyond ``newest`` was passed over when the job went on, so it goes too.
        """
        own = [name for name in self._names() if _expert(name)[1] == newest.expert]
        older = [name for name in own if _order(name) < _order(newest.name)]
        kept = {newest.name, *older[len(older) - self._keep + 1 :]}
        for name in own:
            if name not in kept:
                self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint, its manifest first, so that at no time it seems to be whole."""
        self._blobs.delete(f"{name}/{_MANIFEST}")
        for info in list(self._blobs.listing(f"{name}/")):
            self._blobs.delete(info.key)


def _expert(name: str) -> tuple[int, str]:
    place, _, expert = name.partition("/")[0].partition("-")
    return int(place), expert


def _order(name: str) -> tuple[int, int]:
    return _expert(name)[0], int(name.rpartition("/")[2])
