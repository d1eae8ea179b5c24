"""A store of embeddings that is a dict, and encoders that make bytes of what they are asked."""

import threading
from collections.abc import Iterator, Sequence

from diptych.digest import Digest
from diptych.embedding_cache.ports import Found, Reclaimed, StoreCounts, TierCounts

__all__ = ["FakeStore"]


class FakeStore:
    """Holds everything in one tier; what is not in ``cold`` is in memory."""

    def __init__(self) -> None:
        self.values: dict[Digest, bytes] = {}
        self.cold: dict[Digest, bytes] = {}
        self.gate = threading.Event()
        """Reads wait for it."""
        self.gate.set()
        self.num_flushes = 0

    def peek(self, key: Digest) -> bytes | None:
        return self.values.get(key)

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, Found]:
        found = {}
        for key in keys:
            for source, values in (("memory", self.values), ("disk", self.cold)):
                if key in values and key not in found:
                    found[key] = Found(source=source, size_bytes=len(values[key]))
        return found

    def read(self, key: Digest) -> Found | None:
        self.gate.wait(10)
        for source, values in (("memory", self.values), ("disk", self.cold)):
            if key in values:
                return Found(source=source, size_bytes=len(values[key]), value=values[key])
        return None

    def read_many(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        for key in keys:
            found = self.read(key)
            if found is not None and found.value is not None:
                yield key, found.value

    def write(self, key: Digest, value: bytes) -> bool:
        is_new = key not in self.values and key not in self.cold
        self.values[key] = value
        return is_new

    def flush(self) -> None:
        self.num_flushes += 1

    def evict(self, keys: Sequence[Digest], *, is_dry_run: bool) -> Reclaimed:
        going = [key for key in dict.fromkeys(keys) if key in self.values]
        size_bytes = sum(len(self.values[key]) for key in going)
        for key in going if not is_dry_run else ():
            del self.values[key]
        return Reclaimed(
            num_evicted=len(going),
            evicted_bytes=size_bytes,
            num_kept=len(self.values) - (len(going) if is_dry_run else 0),
            kept_bytes=0,
        )

    def reclaim(
        self, *, older_than_s: float | None, budget_bytes: int | None, is_dry_run: bool
    ) -> Reclaimed:
        del older_than_s, budget_bytes
        return self.evict(list(self.values), is_dry_run=is_dry_run)

    def counts(self) -> StoreCounts:
        tier = TierCounts(
            tier="memory",
            num_entries=len(self.values),
            size_bytes=sum(map(len, self.values.values())),
            limit_bytes=1000,
            num_hits=3,
            num_misses=2,
            num_evictions=1,
        )
        return StoreCounts(tiers=(tier,), num_roots=4, num_damaged=5)
