"""A store of embeddings that is a dict, and encoders that make bytes of what they are asked."""

import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from diptych.digest import Digest
from diptych.embedding_cache.ports import (
    EncodingCounts,
    Found,
    PromptWish,
    Reclaimed,
    StoreCounts,
    TierCounts,
)
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.entry import Entry, TensorValue, write_entry
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord
from diptych.embeddings.memory import Held
from diptych.errors import ImageInvalid, PromptTooLong
from support.identities import identities_of

__all__ = ["FakeEncoding", "FakeStore"]

IDENTITY = EncoderIdentity(fingerprint="sha256:aa", precision="float32", stored="float32")
MAX_CHARACTERS = 75


class FakeStore:
    """Holds everything in one tier; what is not in ``cold`` is in memory."""

    def __init__(self) -> None:
        self.values: dict[Digest, bytes] = {}
        self.cold: dict[Digest, bytes] = {}
        self.gate = threading.Event()
        """Reads wait for it."""
        self.gate.set()
        self.num_flushes = 0
        self.counted: Counter[tuple[str | None, str]] = Counter()

    def peek(self, key: Digest) -> Held | None:
        value = self.values.get(key)
        return None if value is None else Held(value)

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, str]:
        found = {key: "disk" for key in keys if key in self.cold}
        return found | {key: "memory" for key in keys if key in self.values}

    def missing(self, keys: Sequence[Digest]) -> list[Digest]:
        located = self.locate(keys)
        return [key for key in keys if key not in located]

    def read(self, key: Digest, *, kind: str) -> Found | None:
        self.gate.wait(10)
        for source, values in (("memory", self.values), ("disk", self.cold)):
            if key in values:
                self.count(source, kind=kind)
                return Found(source=source, size_bytes=len(values[key]), value=values[key])
        self.count(None, kind=kind)
        return None

    def count(self, tier: str | None, *, kind: str) -> None:
        self.counted[tier, kind] += 1

    def read_many(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        for key in keys:
            found = self.read(key, kind="unknown")
            if found is not None and found.value is not None:
                yield key, found.value

    def write(self, key: Digest, value: bytes) -> bool:
        is_new = key not in self.values and key not in self.cold
        self.values[key] = value
        return is_new

    @property
    def num_failed_writes(self) -> int:
        return 0

    def flush(self, *, since: int) -> None:
        del since
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


class FakeEncoding:
    """Encodes on a thread; what it makes of a text or an image holds their lengths."""

    def __init__(self) -> None:
        self.num_encoded = 0
        self.threads = ThreadPoolExecutor(1)

    @property
    def identities(self) -> EncoderIdentities:
        return identities_of(IDENTITY)

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        text = wish.text or ""
        if len(text) > MAX_CHARACTERS and wish.long_prompt == "error":
            raise PromptTooLong(
                field=wish.field,
                num_tokens=len(text),
                limit=MAX_CHARACTERS,
                cut_text=text[MAX_CHARACTERS:],
            )
        return PromptRecord(encoder=IDENTITY, text=wish.text, clip_skip=wish.clip_skip)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        return ImageRecord(encoder=IDENTITY, image=image, preprocessing=preprocessing)

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        length = len(record.text or "")
        return self.threads.submit(self._made, "prompt", ("hidden", "pooled"), length)

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        del record
        if data.startswith(b"bad"):
            return self.threads.submit(self._refuse, label)
        return self.threads.submit(self._made, "image", ("mean", "std"), len(data))

    def counts(self) -> tuple[EncodingCounts, ...]:
        return (
            EncodingCounts(kind="prompt", num_encoded=self.num_encoded, num_batches=1, seconds=0.5),
        )

    def _made(self, kind: str, names: tuple[str, str], number: int) -> bytes:
        self.num_encoded += 1
        data = struct.pack("<f", number)
        shapes = {"hidden": (1, 1), "pooled": (1,), "mean": (1, 1, 1), "std": (1, 1, 1)}
        tensors = {name: TensorValue(dtype="F32", shape=shapes[name], data=data) for name in names}
        return write_entry(Entry(kind=kind, tensors=tensors))

    def _refuse(self, label: str) -> bytes:
        raise ImageInvalid(label, "is no picture")
