"""Datasets to warm up for, and a warm-up whose every encode is written down.

Run as a program it is one of several processes that warm up for one dataset: it says that it is
ready, begins when it is told to, and says how far it is.
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from diptych.datasets.expansion import Expansion
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.plan import make_plans
from diptych.digest import Digest
from diptych.embedding_cache.claims import open_claims
from diptych.embedding_cache.local_engine import EngineConfig, LocalEngine
from diptych.embedding_cache.needs import Needs, list_needs
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.ports import (
    Encoding,
    NeedsConfig,
    PromptWish,
    Stage,
    WarmOrder,
    WarmOutcome,
)
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.embedding_cache.stores import TenantStore, TenantStores
from diptych.embedding_cache.tally import Progress
from diptych.embedding_cache.warm import WarmConfig, Warmer
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.entry import Entry, TensorValue, write_entry
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord
from diptych.embeddings.tiers import open_packs
from diptych.errors import PromptTooLong
from support.identities import identities_of
from support.made_pictures import write_pictures

__all__ = [
    "SHARD",
    "HashEncoding",
    "Noted",
    "a_dataset",
    "a_store",
    "a_warmer",
    "encoders_of",
    "encodes",
    "entry_of",
    "needs_in",
    "packed",
    "settings_in",
    "warmed",
]

SHARD = 4
MAX_CHARACTERS = 75
MANIFEST = """
datasets:
  - id: one
    source: {{type: folder, path: in}}
    size: {{resolution: 64}}
    checks: {{near_duplicates: ignore}}
{more}"""


class HashEncoding:
    """Encodes what it is asked into its key's bytes, slowly; knows an encoder by its name."""

    def __init__(self, name: str = "one", *, pause_s: float = 0.0) -> None:
        self.identity = EncoderIdentity(fingerprint=name, precision="float32", stored="float32")
        self.thread = ThreadPoolExecutor(1)
        self._pause_s = pause_s

    @property
    def identities(self) -> EncoderIdentities:
        return identities_of(self.identity)

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        text = wish.text or ""
        if len(text) > MAX_CHARACTERS and wish.long_prompt == "error":
            raise PromptTooLong(
                field=wish.field,
                num_tokens=len(text),
                limit=MAX_CHARACTERS,
                cut_text=text[MAX_CHARACTERS:],
            )
        is_chunked = len(text) > MAX_CHARACTERS and wish.long_prompt == "chunk"
        return PromptRecord(encoder=self.identity, text=wish.text, is_chunked=is_chunked)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        return ImageRecord(encoder=self.identity, image=image, preprocessing=preprocessing)

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        return self.thread.submit(self._made, record)

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        assert Digest.of_bytes(data) == record.image
        return self.thread.submit(self._made, record)

    def _made(self, record: PromptRecord | ImageRecord) -> bytes:
        Event().wait(self._pause_s)
        return entry_of(record)


class Noted:
    """Encoders whose every result is noted in a file that several processes may write to."""

    def __init__(self, encoding: Encoding, notes: Path) -> None:
        self._encoding = encoding
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @property
    def identities(self) -> EncoderIdentities:
        return self._encoding.identities

    def prompt_record(self, wish: PromptWish) -> PromptRecord:
        return self._encoding.prompt_record(wish)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        return self._encoding.image_record(image, preprocessing)

    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        return self._noted(record, self._encoding.encode_prompt(record))

    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        return self._noted(record, self._encoding.encode_image(record, data, label=label))

    def _noted(self, record: PromptRecord | ImageRecord, made: Future[bytes]) -> Future[bytes]:
        def note(future: Future[bytes]) -> None:
            if future.exception() is None:
                os.write(self._notes, f"{record.key().hex}\n".encode())

        made.add_done_callback(note)
        return made


def entry_of(record: PromptRecord | ImageRecord) -> bytes:
    """Return what ``HashEncoding`` makes of a record."""
    kind = "prompt" if isinstance(record, PromptRecord) else "image"
    names = ("hidden", "pooled") if kind == "prompt" else ("mean", "std")
    data = hashlib.sha256(record.key().hex.encode()).digest()
    return write_entry(
        Entry(
            kind=kind,
            tensors=dict.fromkeys(names, TensorValue(dtype="F32", shape=(8,), data=data)),
        )
    )


def a_dataset(folder: Path, num_images: int, more: str = "") -> str:
    """Write pictures with captions below ``folder``; return a manifest of them."""
    captions = {f"p{number}": f"picture {number}, red" for number in range(num_images)}
    write_pictures(folder / "in", **captions)
    return MANIFEST.format(more="".join(f"    {line}\n" for line in more.splitlines()))


def settings_in(home: Path) -> Settings:
    """Return settings that keep everything below ``home``."""
    return Settings(home=home, cache=CacheSettings(port=0, metrics_port=None))


@contextmanager
def a_warmer(
    home: Path,
    encodings: Mapping[Stage, Encoding],
    *,
    folder: Path | None = None,
) -> Iterator[tuple[Warmer, TenantStore]]:
    """Give a warmer over real packs below ``home``, and the store of its tenant."""
    config = store_config(settings_in(home))
    with a_store(home) as store:
        yield (
            Warmer(
                encodings,
                store_of=lambda _: store,
                claims_of=lambda _, dataset: open_claims(config, dataset),
                engine_of=partial(LocalEngine, encodings, config=EngineConfig(shard_entries=SHARD)),
                config=WarmConfig(folder=folder or home),
            ),
            store,
        )


@contextmanager
def a_store(home: Path) -> Iterator[TenantStore]:
    """Give the default tenant's store below ``home``."""
    stores = TenantStores(store_config(settings_in(home)), lambda **_: None)
    yield stores.of("default")
    stores.close()


def warmed(
    warmer: Warmer,
    manifest: str,
    *stages: Stage,
    needs: NeedsConfig | None = None,
    progress: Progress = lambda *_: None,
) -> WarmOutcome:
    """Warm up for the default tenant; for the base unless stages are given."""
    order = WarmOrder(
        manifest=manifest, stages=stages or (Stage.BASE,), needs=needs or NeedsConfig()
    )
    return warmer.warm(order, tenant="default", go_on=lambda: None, progress=progress)


def needs_in(
    folder: Path,
    manifest: str,
    encodings: Mapping[Stage, Encoding],
    config: NeedsConfig | None = None,
) -> Needs:
    """Return what a manifest's dataset needs."""
    config = config or NeedsConfig()
    index = Expansion().index(parse_manifest(manifest.encode(), folder=folder))
    plans = make_plans(index, batch_size=config.batch_size)
    return list_needs(plans.values(), encodings, config)


def encodes(notes: Path) -> Counter[str]:
    """Return how often each key was encoded, by whichever process."""
    return Counter(notes.read_text().split())


def packed(home: Path) -> Counter[str]:
    """Return how often each key is in a pack."""
    store = open_packs(store_config(settings_in(home)))
    assert store is not None
    found: Counter[str] = Counter()
    for ref in store.packs.listing():
        rows = store.packs.rows(ref)
        assert rows is not None
        found.update(key.tobytes().hex() for key in rows["key"])
    store.close()
    return found


def main(home: Path, notes: Path, encoder: str, manifest: str) -> None:
    """Warm up as one of several processes."""
    with ExitStack() as stack:
        encodings = stack.enter_context(encoders_of(home, encoder))
        noted = {stage: Noted(one, notes) for stage, one in encodings.items()}
        warmer, _ = stack.enter_context(a_warmer(home, noted))
        _tell("ready")
        sys.stdin.readline()
        warmed(warmer, manifest, progress=_tell)


@contextmanager
def encoders_of(home: Path, encoder: str) -> Iterator[Mapping[Stage, Encoding]]:
    """Give the base's encoders: the nano pair's, or ``hash``."""
    if encoder == "nano":
        from diptych.embedding_cache.warm_loading import encoders_here  # noqa: PLC0415 - torch

        with encoders_here(settings_in(home)) as encodings:
            yield encodings
    else:
        yield {Stage.BASE: HashEncoding(pause_s=0.01)}


def _tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _arguments(found: Sequence[str]) -> tuple[Path, Path, str, str]:
    home, notes, encoder, manifest = found
    return Path(home), Path(notes), encoder, Path(manifest).read_text()


if __name__ == "__main__":
    main(*_arguments(sys.argv[1:]))
