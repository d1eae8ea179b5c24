"""What a hit costs over loopback gRPC: a server in a process of its own, a synchronous client."""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diptych.bench.cache_ways import as_entry, made_values
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.rpc.channel import ChannelConfig

__all__ = ["MAX_LOOPBACK_S", "CacheOverLoopback", "measure_loopback", "served_cache"]

MAX_LOOPBACK_S: Final = 2e-3
_READY_S: Final = 120.0
_WARM_READS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOverLoopback:
    """Seconds of each read of one embedding that the server has in memory."""

    entry_bytes: int
    read_s: tuple[float, ...]
    probe_s: tuple[float, ...]
    """Of a call that carries nothing, in turns with the reads."""

    @property
    def median_s(self) -> float:
        """The median read."""
        return statistics.median(self.read_s)

    @property
    def holds(self) -> bool:
        """Whether it is as quick as is promised."""
        return self.median_s <= MAX_LOOPBACK_S


def measure_loopback(folder: Path, *, num_reads: int = 500) -> CacheOverLoopback:
    """Read one text's embedding of SDXL's size, 77x2048 and 1280 in half precision, many times.

    Args:
        folder: Empty; the server keeps its state there.
        num_reads: That are timed, after some that are not.
    """
    ((key, values),) = made_values(1, seed=2)
    value = as_entry(values)
    with served_cache(folder) as config, EmbeddingCacheClient(config) as client:
        client.write([(key, value)])
        read_s, probe_s = [], []
        for number in range(_WARM_READS + num_reads):
            probed, read = (
                _seconds(lambda: client.find_missing([key])),
                _seconds(lambda: list(client.read([key]))),
            )
            if number >= _WARM_READS:
                probe_s.append(probed)
                read_s.append(read)
    return CacheOverLoopback(entry_bytes=len(value), read_s=tuple(read_s), probe_s=tuple(probe_s))


@contextmanager
def served_cache(folder: Path) -> Iterator[ClientConfig]:
    """Serve the nano pair's embeddings from a process of its own; yield how to call it.

    Args:
        folder: The server keeps its state there.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = [sys.executable, "-m", "diptych.embedding_cache", "--port", port]
    program += ["--metrics-port", "none", "--dir", str(folder)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(program, stdout=nowhere, stderr=nowhere) as server:  # noqa: S603
        config = ClientConfig(channel=ChannelConfig(address=f"127.0.0.1:{port}"))
        try:
            with EmbeddingCacheClient(config) as client:
                client.wait_until_ready(timeout_s=_READY_S)
            yield config
        finally:
            server.terminate()


def _seconds(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s
