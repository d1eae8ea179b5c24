"""Made-up entries, stores of small packs for them, and a program that writes some.

Run as a program: ``support.packed LOCATION FIRST LAST ORDER`` writes these entries, in an order
that the number ORDER stands for, into a folder or, where LOCATION is ``URL#prefix``, a bucket. It
says ``writing``, then ``done``.
"""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import diptych
from diptych.digest import Digest
from diptych.embeddings.pack_store import PackConfig, PackStore
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs

__all__ = ["SMALL", "age", "data_of", "key_of", "open_blobs", "pack_files", "small_store", "start"]

SMALL = PackConfig(pack_bytes=4096, max_age_s=60.0, refresh_s=0.0, chunk_bytes=2048)


def key_of(number: int) -> Digest:
    """Return the key of entry ``number``."""
    return Digest.of_bytes(b"key %d" % number)


def data_of(number: int) -> bytes:
    """Return the bytes of entry ``number``: some 200 to 600 of them, like no other's."""
    return bytes.fromhex(Digest.of_bytes(b"data %d" % number).hex) * (7 + number % 12) + b"end"


def small_store(blobs: BlobStore, config: PackConfig = SMALL) -> PackStore:
    """Return a store of small packs."""
    return PackStore(blobs, namespace="emb", config=config)


def pack_files(folder: Path) -> list[Path]:
    """Return the packs of a folder that ``small_store`` wrote to."""
    return sorted((folder / "emb" / "packs").glob("*"))


def age(path: Path, by_s: float) -> None:
    """Make a file seem ``by_s`` seconds older."""
    status = path.stat()
    os.utime(path, (status.st_atime - by_s, status.st_mtime - by_s))


def open_blobs(location: str) -> BlobStore:
    """Return the blobs of a folder or of ``URL#prefix``."""
    if location.startswith("http"):
        url, prefix = location.split("#")
        config = S3Config(endpoint_url=url, region="us-east-1")
        return S3Blobs(S3Store("adapters", config), prefix=prefix)
    return LocalBlobs(Path(location))


def start(location: str, first: int, last: int, order: int) -> "subprocess.Popen[bytes]":
    """Start the program."""
    program = [sys.executable, "-m", "support.packed", location, *map(str, (first, last, order))]
    source, tests = Path(diptych.__path__[0]).parent, Path(__file__).parents[1]
    env = {
        "PYTHONPATH": f"{source}:{tests}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


def _write(location: str, first: int, last: int, order: int) -> None:
    store = small_store(open_blobs(location))
    numbers = list(range(first, last))
    random.Random(order).shuffle(numbers)
    sys.stdout.write("writing\n")
    sys.stdout.flush()
    for number in numbers:
        threading.Event().wait(0.0005)
        store.put(key_of(number), data_of(number))
    store.close()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    _write(sys.argv[1], *map(int, sys.argv[2:]))
