"""Three ways to keep embeddings on a disk: SimpleTuner's, plain safetensors files, and packs.

Each takes and gives tensors, and may use as many threads as the others. SimpleTuner's way is one
file an entry, ``torch.save`` through gzip at its default level, written beside its name and then
renamed (its local backend does so in a pool of threads).
"""

import gzip
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import safetensors.torch
import torch
from torch import Tensor

from diptych.digest import Digest
from diptych.embeddings.entry import Entry, TensorValue, read_entry, write_entry
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.read_ahead import read_ahead
from diptych.storage.blobs import BlobStore

__all__ = [
    "NUM_THREADS",
    "FileWay",
    "GzipWay",
    "PackWay",
    "Values",
    "Way",
    "as_entry",
    "from_entry",
    "made_values",
]

NUM_THREADS: Final = 4
_NUM_DISTINCT: Final = 16
Values = Mapping[str, Tensor]


class Way(Protocol):
    """Keeps tensors by key."""

    name: str

    def write(self, entries: Iterable[tuple[Digest, Values]]) -> None:
        """Keep these; all are on their way to the disk when it returns."""

    def read(self, keys: Sequence[Digest]) -> Iterator[Values]:
        """Yield what is kept under ``keys``, in any order."""


class GzipWay:
    """SimpleTuner's."""

    name = "SimpleTuner's"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def write(self, entries: Iterable[tuple[Digest, Values]]) -> None:
        """Compress and write in threads."""
        _in_threads(self._write, entries)

    def read(self, keys: Sequence[Digest]) -> Iterator[Values]:
        """Read and inflate in threads."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            yield from read_ahead(keys, self._read, pool=pool, num_ahead=4 * NUM_THREADS)

    def _write(self, item: tuple[Digest, Values]) -> None:
        final = self._folder / f"{item[0].hex}.pt"
        partial = final.with_suffix(".tmp")
        with gzip.open(partial, "wb") as stream:
            torch.save(dict(item[1]), stream)  # type: ignore[arg-type]
        partial.replace(final)

    def _read(self, key: Digest) -> Values:
        with gzip.open(self._folder / f"{key.hex}.pt", "rb") as stream:
            found: Values = torch.load(stream, weights_only=True)  # type: ignore[arg-type] # noqa: TID251
        return found


class FileWay:
    """A safetensors file an entry."""

    name = "safetensors files"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def write(self, entries: Iterable[tuple[Digest, Values]]) -> None:
        """Write in threads."""
        _in_threads(self._write, entries)

    def read(self, keys: Sequence[Digest]) -> Iterator[Values]:
        """Read in threads."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            yield from read_ahead(keys, self._read, pool=pool, num_ahead=4 * NUM_THREADS)

    def _write(self, item: tuple[Digest, Values]) -> None:
        final = self._folder / f"{item[0].hex}.safetensors"
        partial = final.with_suffix(".tmp")
        safetensors.torch.save_file(dict(item[1]), partial)
        partial.replace(final)

    def _read(self, key: Digest) -> Values:
        return safetensors.torch.load((self._folder / f"{key.hex}.safetensors").read_bytes())


class PackWay:
    """Ours: checked packs, synced to the disk."""

    name = "Diptych"

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def write(self, entries: Iterable[tuple[Digest, Values]]) -> None:
        """Serialize and put."""
        store = PackStore(self._blobs)
        for key, values in entries:
            store.put(key, as_entry(values))
        store.close()

    def read(self, keys: Sequence[Digest]) -> Iterator[Values]:
        """Read with a store that is opened for it."""
        store = PackStore(self._blobs)
        for _, data in store.read_many(keys):
            yield from_entry(data)
        store.close()


def made_values(num_entries: int, *, seed: int) -> list[tuple[Digest, Values]]:
    """Return entries of SDXL's size in float16, prompts and images in turn.

    Numbers are drawn at random, as embeddings look to a compressor; entries share some of them.
    """
    drawn = torch.Generator().manual_seed(seed)
    prompts = [
        {"hidden": _draw(drawn, 77, 2048), "pooled": _draw(drawn, 1280)}
        for _ in range(_NUM_DISTINCT)
    ]
    images = [
        {"mean": _draw(drawn, 4, 128, 128), "std": _draw(drawn, 4, 128, 128).abs()}
        for _ in range(_NUM_DISTINCT)
    ]
    distinct = [one for pair in zip(prompts, images, strict=True) for one in pair]
    return [
        (Digest.of_bytes(b"%d %d" % (seed, number)), distinct[number % len(distinct)])
        for number in range(num_entries)
    ]


def as_entry(values: Values) -> bytes:
    """Return tensors of float16 as the cache keeps them."""
    tensors = {
        name: TensorValue(dtype="F16", shape=tuple(value.shape), data=value.numpy().tobytes())
        for name, value in values.items()
    }
    return write_entry(Entry(kind="prompt" if "hidden" in values else "image", tensors=tensors))


def from_entry(data: bytes) -> Values:
    """Return the tensors of an entry, which share its memory and are not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return {
            name: torch.frombuffer(value.data, dtype=torch.float16).reshape(value.shape)
            for name, value in read_entry(data).tensors.items()
        }


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).to(torch.float16)


def _in_threads(write: object, entries: Iterable[tuple[Digest, Values]]) -> None:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for _ in read_ahead(entries, write, pool=pool, num_ahead=4 * NUM_THREADS):  # type: ignore[arg-type]
            pass
