"""Embeddings on S3: packs against one object an entry, over HTTP on loopback.

The server is moto's, in a process of its own. Both sides use as many threads, and are slowed by
the same server: what packs save is requests, so small entries gain most, and of large ones the
bytes that the server moves are the bound.
"""

import http.client
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from diptych.bench.cache_ways import NUM_THREADS, as_entry, made_values
from diptych.digest import Digest
from diptych.embeddings.tiers import StoreConfig, open_packs
from diptych.errors import ExtraMissing, ServerUnreachable
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs

__all__ = ["MIN_S3_RATIO", "CacheOnS3", "measure_s3", "s3_server"]

MIN_S3_RATIO = 10.0
_BUCKET: Final = "bench"
_REGION: Final = "us-east-1"
_START_S: Final = 60.0
Entries = Sequence[tuple[Digest, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOnS3:
    """Seconds for each repeat: entries as objects of their own, and in packs."""

    num_entries: int
    entry_bytes: int
    single_write_s: tuple[float, ...]
    single_read_s: tuple[float, ...]
    pack_write_s: tuple[float, ...]
    pack_read_s: tuple[float, ...]

    @property
    def write_ratio(self) -> float:
        """How much quicker packs are written; the median of repeats."""
        return _ratio(self.single_write_s, self.pack_write_s)

    @property
    def read_ratio(self) -> float:
        """How much quicker packs are read; the median of repeats."""
        return _ratio(self.single_read_s, self.pack_read_s)

    @property
    def holds(self) -> bool:
        """Whether packs are as much quicker as is promised."""
        return min(self.write_ratio, self.read_ratio) >= MIN_S3_RATIO


def measure_s3(
    url: str,
    *,
    num_entries: int,
    is_small: bool,
    repeats: int,
    progress: Callable[[], None] = lambda: None,
) -> CacheOnS3:
    """Write and read ``num_entries`` of 4 KiB, or of SDXL's size, at the server of ``url``."""
    if is_small:
        entries = [
            (Digest.of_bytes(b"%d" % n), secrets.token_bytes(4096)) for n in range(num_entries)
        ]
    else:
        entries = [(key, as_entry(values)) for key, values in made_values(num_entries, seed=1)]
    seconds: list[tuple[float, float, float, float]] = []
    for number in range(repeats):
        prefix = f"{is_small}-{number}"
        seconds.append((*_one_each(url, f"one-{prefix}", entries), *_packed(url, prefix, entries)))
        progress()
    columns = list(zip(*seconds, strict=True))
    return CacheOnS3(
        num_entries=num_entries,
        entry_bytes=sum(len(data) for _, data in entries) // num_entries,
        single_write_s=columns[0],
        single_read_s=columns[1],
        pack_write_s=columns[2],
        pack_read_s=columns[3],
    )


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server with an empty bucket and yield its URL.

    Raises:
        ExtraMissing: moto, which has the server, is not installed.
        ServerUnreachable: It does not answer.
    """
    if find_spec("moto") is None or find_spec("flask") is None:
        raise ExtraMissing(extra="bench", needed_for="an S3 server to measure against (moto)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    nowhere = subprocess.DEVNULL
    with (
        subprocess.Popen(program, stdout=nowhere, stderr=nowhere) as server,  # noqa: S603
        _credentials(),
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _make_bucket(url)
            yield url
        finally:
            server.terminate()


def _make_bucket(url: str) -> None:
    until_s = time.monotonic() + _START_S
    while True:
        try:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
            connection.request("PUT", f"/{_BUCKET}")
            connection.getresponse().read()
            connection.close()
        except OSError as error:
            if time.monotonic() > until_s:
                raise ServerUnreachable(address=url, detail=str(error)) from error
            time.sleep(0.1)
        else:
            return


@contextmanager
def _credentials() -> Iterator[None]:
    """Give boto3, which looks only there, credentials that the server does not check."""
    made = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    before = dict(os.environ)  # noqa: TID251
    os.environ.update(made)  # noqa: TID251
    try:
        yield
    finally:
        for name in made:
            os.environ.pop(name, None)  # noqa: TID251
            if name in before:
                os.environ[name] = before[name]  # noqa: TID251


def _one_each(url: str, prefix: str, entries: Entries) -> tuple[float, float]:
    blobs = S3Blobs(S3Store(_BUCKET, S3Config(endpoint_url=url, region=_REGION)), prefix=prefix)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        begun_s = time.perf_counter()
        list(pool.map(lambda entry: blobs.put(entry[0].hex, [entry[1]]), entries))
        written_s = time.perf_counter()
        found = pool.map(lambda entry: b"".join(blobs.read(entry[0].hex)) == entry[1], entries)
        assert all(found)
        return written_s - begun_s, time.perf_counter() - written_s


def _packed(url: str, prefix: str, entries: Entries) -> tuple[float, float]:
    config = StoreConfig(s3_uri=f"s3://{_BUCKET}/{prefix}", s3_endpoint=url, s3_region=_REGION)
    writer, reader = open_packs(config), open_packs(config)
    assert writer is not None
    assert reader is not None
    begun_s = time.perf_counter()
    for key, data in entries:
        writer.put(key, data)
    writer.close()
    written_s = time.perf_counter()
    assert sum(1 for _ in reader.read_many(key for key, _ in entries)) == len(entries)
    reader.close()
    return written_s - begun_s, time.perf_counter() - written_s


def _ratio(single: Sequence[float], packed: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(single, packed, strict=True))
