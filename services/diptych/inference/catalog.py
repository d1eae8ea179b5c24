"""The adapters of this server: what comes in is checked and stored, what is asked for is found.

Everything here blocks; ``adapters_service`` calls it in threads. Bytes from outside lie in private
files until they were read whole and found to fit; the name is given last.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diptych.adapters.adapter import Adapter
from diptych.adapters.bundle import bundle_pieces, from_bytes
from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.listing import Filter, list_page
from diptych.adapters.naming import split_reference
from diptych.adapters.reading import Overrides, read_adapter
from diptych.adapters.registry import AdapterEntry, Registry, utc_now
from diptych.adapters.sources import Fetched
from diptych.adapters.summary import summarise
from diptych.adapters.sweep import Sweeper
from diptych.adapters.writing import write_adapter
from diptych.digest import Digest
from diptych.errors import (
    AdapterMismatch,
    AdapterNotFound,
    FieldViolation,
    InvalidRequest,
)
from diptych.inference.base_weights import BaseWeights, check_shapes
from diptych.inference.fitting import (
    acts_on,
    check_card,
    hosted_in_stage,
    mismatch_of,
    no_expert,
)
from diptych.inference.frames import frees_frames
from diptych.inference.hosted import Hosted
from diptych.inference.merging import Zips, merge_stored
from diptych.inference.orders import (
    AdapterWish,
    CatalogPage,
    ExportedFile,
    GoOn,
    ImportOrder,
    MergeOrder,
    MergeOutcome,
    Shown,
    Upload,
)
from diptych.inference.receiving import PrivateFile, ReceivedFile, open_folder
from diptych.inference.trajectory import AdapterUse, Expert

__all__ = ["AdapterCatalog", "CatalogConfig", "Fetches"]

_log = logging.getLogger(__name__)

PIECE_BYTES: Final = 1 << 20
MAX_SHOWN: Final = 120


Fetches = Callable[[str, GoOn], AbstractContextManager[Fetched]]
"""Brings what lies at a uri to this machine for as long as the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogConfig:
    """Where a catalogue keeps what comes in, and how much may come."""

    incoming_dir: Path
    """Of the store's own; nobody else's."""
    max_bytes: int = 4 << 30
    """Bytes of one upload or of one fetched file."""


class AdapterCatalog:
    """The catalogue of a server; safe to use from many threads."""

    def __init__(
        self,
        registry: Registry,
        *,
        hosted: Hosted,
        weights: Mapping[Expert, BaseWeights],
        fetch: Fetches,
        config: CatalogConfig,
        zips: Zips | None = None,
    ) -> None:
        """Keep adapters in ``registry``; ``weights`` are of the experts that are here."""
        self._zips = zips
        self._registry = registry
        self._hosted = hosted
        self._weights = weights
        self._fetch = fetch
        self._config = config
        self._sweeper = Sweeper(registry)
        open_folder(config.incoming_dir)

    def receive(self, order: ImportOrder) -> "IncomingAdapter":
        """Begin to take in an upload."""
        assert isinstance(order.source, Upload)
        size_bytes, limit = order.source.size_bytes, self._config.max_bytes
        if not 1 <= size_bytes <= limit:
            raise _invalid("header.upload.size_bytes", f"{size_bytes} is not in [1, {limit}]")
        return IncomingAdapter(
            ReceivedFile(self._config.incoming_dir, order.source),
            take=lambda path, go_on: self._take(path, order, source=_file_name(order), go_on=go_on),
        )

    @frees_frames
    def fetch(self, order: ImportOrder, go_on: GoOn) -> Shown:
        """Take in what lies at a uri."""
        assert isinstance(order.source, str)
        with self._fetch(order.source, go_on) as fetched:
            return self._take(fetched.path, order, source=fetched.source, go_on=go_on)

    def get(self, reference: str, *, tenant: str) -> Shown:
        """Return what ``reference`` means."""
        parsed = split_reference(reference, field_name="adapter")
        if isinstance(parsed, Digest):
            card = self._registry.card(parsed, tenant=tenant)
            return self._shown(card, tenant=tenant)
        stores = self._registry.stores
        key = stores.name_key(tenant, *parsed)
        ref = stores.refs.read(key)
        if ref is None:
            raise AdapterNotFound(reference)
        return self._entry(self._registry.entry(key, ref, tenant=tenant), tenant)

    def page(self, where: Filter, *, tenant: str, page_size: int, page_token: str) -> CatalogPage:
        """Return a page of a tenant's names."""
        page = list_page(
            self._registry, where, tenant=tenant, page_size=page_size, page_token=page_token
        )
        shown = tuple(self._entry(entry, tenant) for entry in page.entries)
        return CatalogPage(adapters=shown, next_page_token=page.next_page_token)

    def remove(self, reference: str, *, tenant: str, expected: Digest | None) -> None:
        """Take a name away."""
        self._registry.remove(reference, tenant=tenant, expected=expected)
        self._sweeper.name_changed(tenant)

    @frees_frames
    def merge(
        self, order: MergeOrder, progress: Callable[[int, int], None], go_on: GoOn
    ) -> MergeOutcome:
        """Merge adapters into a new one."""

        def step(done: int, total: int) -> None:
            go_on()
            progress(done, total)

        merged = merge_stored(
            self._registry, order, weights=self._weights, progress=step, zips=self._zips
        )
        shown = self._publish(merged.adapter, order, source="merge", go_on=go_on)
        return MergeOutcome(adapter=shown, report=merged.report, sources=order.sources)

    def export(
        self, reference: str, target_format: str, *, tenant: str
    ) -> Iterator[ExportedFile | bytes]:
        """Yield an adapter's files; those of a bundle straight from the store."""
        digest = self._registry.resolve(reference, tenant=tenant)
        with self._registry.hold(digest, tenant=tenant) as path:
            if target_format == "bundle":
                yield ExportedFile(
                    path="adapter.safetensors",
                    size_bytes=path.stat().st_size,
                    sha256=bytes.fromhex(digest.hex),
                )
                with path.open("rb") as stream:
                    while piece := stream.read(PIECE_BYTES):
                        yield piece
                return
            files = write_adapter(from_bytes(path, source=reference), target_format)
            for name, data in files.items():
                sha256 = bytes.fromhex(Digest.of_bytes(data).hex)
                yield ExportedFile(path=name, size_bytes=len(data), sha256=sha256)
                for start in range(0, len(data), PIECE_BYTES):
                    yield data[start : start + PIECE_BYTES]

    def check(self, reference: str, *, tenant: str, force: bool) -> AdapterUse:
        """Return the use of one adapter by all experts it acts on."""
        digest = self._registry.resolve(reference, tenant=tenant)
        card = self._registry.card(digest, tenant=tenant)
        try:
            check_card(card, self._hosted, name=reference)
        except AdapterMismatch as mismatch:
            if not force:
                raise
            _log.warning("loaded all the same, by force: %s", mismatch)
        wish = AdapterWish(reference=reference, field="adapter", force=force)
        return _use(wish, card, tenant=tenant)

    def resolve(
        self, wishes: Sequence[AdapterWish], *, tenant: str, experts: frozenset[Expert]
    ) -> tuple[AdapterUse, ...]:
        """Return what a request that runs ``experts`` does with its adapters."""
        uses: list[AdapterUse] = []
        fields: dict[Digest, str] = {}
        for wish in wishes:
            digest = self._registry.resolve(wish.reference, tenant=tenant)
            if digest in fields:
                raise _invalid(f"{wish.field}.adapter", f"is the same as {fields[digest]}")
            fields[digest] = wish.field
            card = self._registry.card(digest, tenant=tenant)
            if acts_on(card) & experts:
                self._check_wish(wish, card, experts)
                uses.append(_use(wish, card, tenant=tenant))
        return tuple(uses)

    def _check_wish(self, wish: AdapterWish, card: AdapterCard, experts: frozenset[Expert]) -> None:
        for expert in hosted_in_stage(card, self._hosted):
            mismatch = mismatch_of(card, expert, name=wish.reference)
            if expert.expert not in experts or mismatch is None:
                continue
            if not wish.force:
                raise mismatch
            _log.warning("used all the same, by force: %s", mismatch)

    def _take(self, path: Path, order: ImportOrder, *, source: str, go_on: GoOn) -> Shown:
        """Read what came, check that it fits, and give it its name."""
        overrides = Overrides(family=order.family, stage=order.stage)
        adapter = read_adapter(path, name=source, overrides=overrides)
        words = dict.fromkeys((*adapter.trigger_words, *order.trigger_words))
        adapter = replace(adapter, trigger_words=tuple(words))
        go_on()
        return self._publish(adapter, order, source=source, go_on=go_on)

    def _publish(
        self, adapter: Adapter, order: ImportOrder | MergeOrder, *, source: str, go_on: GoOn
    ) -> Shown:
        """Store a bundle of ``adapter`` and give it its name."""
        with PrivateFile(self._config.incoming_dir) as file:
            for piece in bundle_pieces(adapter):
                file.write(piece)
                go_on()
            card = summarise(
                adapter,
                digest=file.seal(),
                size_bytes=file.size_bytes,
                source=source,
                created_at=utc_now(),
            )
            self._check_fits(adapter, card, name=order.name, force=order.force)
            go_on()
            expected = order.expected if isinstance(order, ImportOrder) else None
            self._registry.publish(
                order.name,
                file.path,
                card,
                tag=order.tag,
                tenant=order.tenant,
                expected=expected,
                replace=order.replace,
            )
        shown = self._published(order, card.digest)
        if order.replace or expected is not None:
            self._sweeper.name_changed(order.tenant)
        return shown

    def _published(self, order: ImportOrder | MergeOrder, digest: Digest) -> Shown:
        """Return what was just named, even if others have moved or removed the name since."""
        with suppress(AdapterNotFound):
            shown = self.get(f"{order.name}:{order.tag}", tenant=order.tenant)
            if shown.card.digest == digest:
                return shown
        shown = self._shown(self._registry.card(digest, tenant=order.tenant), tenant=order.tenant)
        return replace(shown, name=order.name, tag=order.tag)

    def _check_fits(self, adapter: Adapter, card: AdapterCard, *, name: str, force: bool) -> None:
        """Return if the adapter fits one of the experts it acts on.

        Raises:
            AdapterMismatch: It fits none, and is not to be taken by force.
        """
        problems: list[AdapterMismatch] = []
        for expert in hosted_in_stage(card, self._hosted):
            problem = mismatch_of(card, expert, name=name)
            if problem is None and expert.expert in self._weights:
                try:
                    check_shapes(adapter, self._weights[expert.expert], name=name)
                except AdapterMismatch as mismatch:
                    problem = mismatch
            if problem is None:
                return
            problems.append(problem)
        problem = problems[0] if problems else no_expert(card, self._hosted, name=name)
        if not force:
            raise problem
        _log.warning("taken in all the same, by force: %s", problem)

    def _entry(self, entry: AdapterEntry, tenant: str) -> Shown:
        return Shown(
            name=entry.name,
            tag=entry.tag,
            card=entry.card,
            since=entry.moved_at,
            is_here=self._registry.is_here(entry.card.digest, tenant=tenant),
        )

    def _shown(self, card: AdapterCard, *, tenant: str) -> Shown:
        is_here = self._registry.is_here(card.digest, tenant=tenant)
        return Shown(name="", tag="", card=card, since=card.created_at, is_here=is_here)


class IncomingAdapter:
    """An upload under way; used by one call, one method at a time."""

    def __init__(self, file: ReceivedFile, *, take: Callable[[Path, GoOn], Shown]) -> None:
        self._file = file
        self._take = take

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._file.write(piece)

    @frees_frames
    def finish(self, go_on: GoOn) -> Shown:
        """Read what came, check it and give it its name."""
        try:
            self._file.seal()
            return self._take(self._file.path, go_on)
        finally:
            self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()


def _file_name(order: ImportOrder) -> str:
    """Return what an upload is called in messages: what the caller says, cut, or its name."""
    assert isinstance(order.source, Upload)
    file_name = order.source.file_name.replace("\\", "/").rpartition("/")[2]
    return file_name[-MAX_SHOWN:] or order.name


def _use(wish: AdapterWish, card: AdapterCard, *, tenant: str) -> AdapterUse:
    return AdapterUse(
        digest=str(card.digest),
        name=wish.reference,
        scale=wish.scale,
        parts=wish.parts,
        tenant=tenant,
        dora=Kind.DORA in card.kinds,
        force=wish.force,
        experts=acts_on(card),
    )


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)])
