"""From a manifest to its index: every image is listed, read, captioned and checked, once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import Final

from diptych.datasets.alike import without_alike
from diptych.datasets.captions import CaptionReader
from diptych.datasets.damage import suffix_problem
from diptych.datasets.facts import Facts, facts_of
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.findings import Findings, Note
from diptych.datasets.index import DatasetIndex, Index, IndexEntry
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import FolderSource, S3Source, SourceSpec
from diptych.datasets.sources.base import Source, SourceItem
from diptych.datasets.sources.opening import open_source
from diptych.datasets.spec import DatasetSpec, Manifest, MasksSpec, SamplingSpec
from diptych.digest import Digest, canonical_bytes
from diptych.errors import DigestMismatch, ImageInvalid, ObjectNotFound, SourceUnavailable

__all__ = ["Expansion", "OnProgress", "read_image"]

OnProgress = Callable[[str, int, int], None]
"""Takes a dataset's id, how many of its images are done and how many there are."""
Known = tuple[SourceItem, Facts]

_NUM_READERS: Final = 4
_AT_ONCE: Final = 64
"""Images that one thread reads before it hands them over."""
_KEPT_AT_ONCE: Final = 16
"""Such portions between two writes of the cache."""


class Expansion:
    """Expands manifests; its ``findings`` grow with each."""

    def __init__(
        self,
        *,
        places: Places = EVERYWHERE,
        cache: FactsCache | None = None,
        examine: bool = False,
        progress: OnProgress | None = None,
    ) -> None:
        """Set up.

        Args:
            places: What may be read.
            cache: Facts of images that were read before.
            examine: Whether pixels are decoded to find damage and near duplicates; where a dataset
                skips such images they are in any case.
            progress: Told now and then, from the calling thread.
        """
        self.findings: Final = Findings()
        self._places, self._cache, self._examine = places, cache, examine
        self._progress = progress or (lambda *_: None)

    def index(self, manifest: Manifest) -> Index:
        """Return the index of ``manifest``; what it leaves out is among the findings.

        Raises:
            DatasetInvalid: A source is not there, or its table cannot be read.
            ExtraMissing: A source needs what is not installed.
            ObjectNotFound: A bucket does not exist.
            SourceUnavailable: A source does not answer.
            StoreFull: The cache has no room.
        """
        datasets = [self._dataset(one) for one in manifest.datasets if not one.disabled]
        index = Index.of(manifest, datasets)
        self._note_leaks(index)
        return index

    def _dataset(self, spec: DatasetSpec) -> DatasetIndex:
        note = self.findings.of_dataset(spec.id)
        source = self.source(spec.source, note)
        items = _sampled(list(source.items()), spec.sampling, note)
        examine = self._examine or "skip" in {spec.checks.near_duplicates, spec.checks.damaged}
        examine = examine and not spec.checks.near_duplicates == spec.checks.damaged == "ignore"
        known = self._known(spec.id, source, spec.source, items, examine=examine, note=note)
        usable = [one for one in known if _is_usable(one, spec, note)]
        usable = without_alike(usable, spec.checks, note)
        masks = self._masks(spec, usable, note) if spec.masks else {}
        captions = CaptionReader(spec.captions, note)
        entries = []
        for item, facts in usable:
            if found := captions.read(source, item, facts.digest):
                entries.append(_entry(item, facts, found, masks.get(item.name)))
        return DatasetIndex(spec, entries)

    def source(self, spec: SourceSpec, note: Note) -> Source:
        """Return an open source that reads only where this expansion may."""
        return open_source(spec, note=note, places=self._places)

    def _known(
        self,
        label: str,
        source: Source,
        spec: SourceSpec,
        items: Sequence[SourceItem],
        *,
        examine: bool,
        note: Note,
    ) -> Iterator[Known]:
        """Yield the items that could be read with their facts, in order."""
        name = _source_name(spec)
        portions = [items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)]
        num_done = 0
        unkept: list[Known] = []
        with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="index") as pool:
            cached = [self._cached(name, portion, examine) for portion in portions]
            jobs = zip(portions, cached, strict=True)
            reading = pool.map(lambda job: _read(source, job, examine=examine), jobs)
            for number, portion in enumerate(reading):
                for item, found in portion:
                    if isinstance(found, Facts):
                        if item.place not in cached[number]:
                            unkept.append((item, found))
                        yield item, found
                    else:
                        _note_unread(item, found, note, is_patchy=source.is_patchy)
                num_done += len(portion)
                self._progress(label, num_done, len(items))
                if number % _KEPT_AT_ONCE == 0 or num_done == len(items):
                    self._keep(name, unkept)
                    unkept = []

    def _cached(self, name: str, portion: Sequence[SourceItem], examine: bool) -> dict[str, Facts]:
        return dict(self._cache.find(name, portion, examine=examine)) if self._cache else {}

    def _keep(self, name: str, found: Sequence[Known]) -> None:
        if self._cache and found:
            self._cache.keep(name, found)

    def _masks(
        self, spec: DatasetSpec, images: Sequence[Known], note: Note
    ) -> dict[str, tuple[Digest, str]]:
        """Return digest and place of each image's mask, by the image's name."""
        masks = spec.masks
        assert masks is not None
        sizes = {item.name: (facts.width, facts.height) for item, facts in images}
        source, items = self._mask_items(masks, note)
        wanted = [item for name, item in items.items() if name in sizes]
        for item, _ in images:
            if item.name not in items:
                note("mask_missing", item.place, "no mask of its name; all of it counts")
        found = {}
        label = f"{spec.id} masks"
        for item, facts in self._known(
            label, source, masks.source, wanted, examine=False, note=note
        ):
            if facts.problem:
                note("mask_invalid", item.place, f"{facts.problem}; all of its image counts")
                continue
            width, height = sizes[item.name]
            if (facts.width, facts.height) != (width, height):
                detail = f"{facts.width}x{facts.height}, its image is {width}x{height}"
                note("mask_size_differs", item.place, detail)
            found[item.name] = facts.digest, item.place
        return found

    def _mask_items(self, masks: MasksSpec, note: Note) -> tuple[Source, dict[str, SourceItem]]:
        source = self.source(masks.source, note)
        items: dict[str, SourceItem] = {}
        for item in source.items():
            if items.setdefault(item.name, item) is not item:
                first = items[item.name].place
                note("duplicate", item.place, f"a mask of the same name as {first}")
        return source, items

    def _note_leaks(self, index: Index) -> None:
        """Note the images of evaluation sets that are trained on too."""
        trained = {
            one.image(place): one.spec.id
            for one in index.datasets.values()
            if one.spec.kind != "eval"
            for place in range(len(one))
        }
        for one in index.datasets.values():
            if one.spec.kind != "eval":
                continue
            note = self.findings.of_dataset(one.spec.id)
            for entry in one:
                if entry.image in trained:
                    detail = f"held out, and trained on in {trained[entry.image]}"
                    note("duplicate", entry.place, detail)


def read_image(source: Source, entry: IndexEntry) -> bytes:
    """Return the bytes of an image as they were indexed.

    Raises:
        DigestMismatch: They changed since.
        ImageInvalid: They cannot be had.
        ObjectNotFound: The image is gone.
        SourceUnavailable: Its source does not answer.
    """
    data = source.open(SourceItem(place=entry.place, name=""))
    found = Digest.of_bytes(data)
    if found != entry.image:
        raise DigestMismatch(expected=str(entry.image), actual=str(found))
    return data


def _read(
    source: Source, job: tuple[Sequence[SourceItem], dict[str, Facts]], *, examine: bool
) -> list[tuple[SourceItem, Facts | Exception]]:
    """Return the facts of a portion, or why there are none."""
    items, cached = job
    found: list[tuple[SourceItem, Facts | Exception]] = []
    for item in items:
        facts: Facts | Exception | None = cached.get(item.place)
        if facts is None:
            try:
                facts = facts_of(source.open(item), examine=examine)
            except (ImageInvalid, ObjectNotFound, SourceUnavailable) as error:
                facts = error
        found.append((item, facts))
    return found


def _note_unread(item: SourceItem, error: Exception, note: Note, *, is_patchy: bool) -> None:
    if isinstance(error, SourceUnavailable) and not is_patchy:
        raise error
    note("unreadable", item.place, str(error))


def _is_usable(known: Known, spec: DatasetSpec, note: Note) -> bool:
    item, facts = known
    if facts.problem:
        note("image_invalid", item.place, facts.problem)
        return False
    if problem := suffix_problem(item.place, facts.format):
        note("extension_wrong", item.place, problem)
    if facts.oddities:
        note("picture_odd", item.place, facts.oddities)
    if facts.num_frames > 1:
        note("animated", item.place, f"the first of {facts.num_frames} frames is used")
    _note_other_size(item, facts, spec.source, note)
    if not facts.damage or spec.checks.damaged == "ignore":
        return True
    is_skipped = spec.checks.damaged == "skip"
    note("damaged", item.place, facts.damage, action="skipped" if is_skipped else None)
    return not is_skipped


def _note_other_size(item: SourceItem, facts: Facts, source: SourceSpec, note: Note) -> None:
    metadata = source.metadata if isinstance(source, FolderSource | S3Source) else None
    if metadata is None:
        return
    for column, size in (
        (metadata.width_column, facts.width),
        (metadata.height_column, facts.height),
    ):
        told = item.row.get(column) if column else None
        if told is not None and str(told) != str(size):
            note("size_differs", item.place, f"{column} is {told}, the picture has {size} pixels")


def _sampled(items: list[SourceItem], sampling: SamplingSpec, note: Note) -> list[SourceItem]:
    """Return at most ``max_samples`` items, drawn by the seed and their names."""
    limit = sampling.max_samples
    if limit is None or len(items) <= limit:
        return items
    rank = {
        item.place: sha256(canonical_bytes([sampling.seed, item.name])).digest() for item in items
    }
    drawn = {item.place for item in sorted(items, key=lambda item: rank[item.place])[:limit]}
    for item in items:
        if item.place not in drawn:
            note("max_samples", item.place, f"not among the {limit} of {len(items)} drawn")
    return [item for item in items if item.place in drawn]


def _entry(
    item: SourceItem, facts: Facts, captions: tuple[str, ...], mask: tuple[Digest, str] | None
) -> IndexEntry:
    entry = IndexEntry(
        image=facts.digest,
        width=facts.width,
        height=facts.height,
        captions=captions,
        place=item.place,
    )
    return entry if mask is None else replace(entry, mask=mask[0], mask_place=mask[1])


def _source_name(spec: SourceSpec) -> str:
    """Return what tells a source's places from another's: how images are found, no more."""
    if isinstance(spec, S3Source):
        return f"s3 {spec.endpoint_url or ''} {spec.bucket} {spec.prefix}"
    where = getattr(spec, "path", None) or getattr(spec, "dataset", "")
    return f"{spec.type} {where}"
