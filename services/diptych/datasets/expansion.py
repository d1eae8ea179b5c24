"""From a manifest to its index: every image is listed, read, captioned and checked, once."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

from diptych.datasets.alike import without_alike
from diptych.datasets.captions import CaptionReader
from diptych.datasets.damage import suffix_problem
from diptych.datasets.facts import Facts
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.findings import Findings, Note
from diptych.datasets.index import DatasetIndex, Index, IndexEntry
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.reading import ImageReader, OnProgress, ReadImage, Wish
from diptych.datasets.source_spec import FolderSource, S3Source, SourceSpec
from diptych.datasets.sources.base import Source, SourceItem
from diptych.datasets.sources.opening import open_source
from diptych.datasets.spec import DatasetSpec, Manifest, MasksSpec, SamplingSpec
from diptych.digest import Digest, canonical_bytes
from diptych.errors import DatasetInvalid, DigestMismatch, FieldViolation

__all__ = ["Expansion", "read_image"]


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
        self._places, self._examine = places, examine
        self._reader = ImageReader(cache, progress or (lambda *_: None))

    def index(self, manifest: Manifest) -> Index:
        """Return the index of ``manifest``; what it leaves out is among the findings.

        Raises:
            DatasetInvalid: A source is not there, or its table cannot be read.
            ExtraMissing: A source needs what is not installed.
            ObjectNotFound: A bucket does not exist.
            SourceUnavailable: A source does not answer.
            StoreFull: The cache has no room.
        """
        datasets = [
            self._named(place, one)
            for place, one in enumerate(manifest.datasets)
            if not one.disabled
        ]
        index = Index.of(manifest, datasets)
        self._note_leaks(index)
        return index

    def _named(self, place: int, spec: DatasetSpec) -> DatasetIndex:
        """Expand a dataset; what is wrong with its sources is told with its place and its id."""
        try:
            return self._dataset(spec)
        except DatasetInvalid as error:
            violations = [
                FieldViolation(
                    field=f"datasets[{place}].{one.field}",
                    description=f"dataset {spec.id}: {one.description}",
                )
                for one in error.violations
            ]
            raise DatasetInvalid(violations) from error

    def _dataset(self, spec: DatasetSpec) -> DatasetIndex:
        note = self.findings.of_dataset(spec.id)
        captions = CaptionReader(spec.captions, note)
        columns = captions.columns | _size_columns(spec.source)
        source = open_source(spec.source, note=note, places=self._places, columns=columns)
        items = _sampled(list(source.items()), spec.sampling, note)
        wish = Wish(
            examine=self._is_examined(spec),
            extension=captions.extension,
            text_limit=captions.text_limit,
        )
        read = self._reader.read(source, spec.source, items, wish=wish, label=spec.id, note=note)
        usable = without_alike(
            [one for one in read if _is_usable(one, spec, note)], spec.checks, note
        )
        masks = self._masks(spec.id, spec.masks, usable, note) if spec.masks else {}
        entries = [
            _entry(image, found, masks.get(image.item.name))
            for image in usable
            if (found := captions.read(image.item, image.text, image.facts.digest))
        ]
        return DatasetIndex(spec, entries)

    def _is_examined(self, spec: DatasetSpec) -> bool:
        checks = {spec.checks.near_duplicates, spec.checks.damaged}
        return "skip" in checks or (self._examine and "report" in checks)

    def _masks(
        self, dataset: str, masks: MasksSpec, images: Sequence[ReadImage], note: Note
    ) -> dict[str, tuple[Digest, str]]:
        """Return digest and place of each image's mask, by the image's name."""
        source = open_source(masks.source, note=note, places=self._places)
        items = _by_name(source, note)
        sizes = {one.item.name: (one.facts.width, one.facts.height) for one in images}
        for image in images:
            if image.item.name not in items:
                note("mask_missing", image.item.place, "no mask of its name; all of it counts")
        wanted = [item for name, item in items.items() if name in sizes]
        label = f"masks of {dataset}"
        found = {}
        for mask in self._reader.read(
            source, masks.source, wanted, wish=Wish(), label=label, note=note
        ):
            place, facts = mask.item.place, mask.facts
            if facts.problem:
                note("mask_invalid", place, f"{facts.problem}; all of its image counts")
                continue
            width, height = sizes[mask.item.name]
            if (facts.width, facts.height) != (width, height):
                detail = f"{facts.width}x{facts.height}, its image is {width}x{height}"
                note("mask_size_differs", place, detail)
            found[mask.item.name] = facts.digest, place
        return found

    def _note_leaks(self, index: Index) -> None:
        """Note the images of evaluation sets that are trained on too."""
        trained = {
            one.image(place): one.spec.id
            for one in index.datasets.values()
            if one.spec.kind != "eval"
            for place in range(len(one))
        }
        for one in index.datasets.values():
            note = self.findings.of_dataset(one.spec.id)
            for entry in one if one.spec.kind == "eval" else ():
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


def _is_usable(image: ReadImage, spec: DatasetSpec, note: Note) -> bool:
    item, facts = image.item, image.facts
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
    sizes = ((metadata.width_column, facts.width), (metadata.height_column, facts.height))
    for column, size in sizes:
        told = item.row.get(column) if column else None
        if told is not None and str(told) != str(size):
            note("size_differs", item.place, f"{column} is {told}, the picture has {size} pixels")


def _size_columns(source: SourceSpec) -> frozenset[str]:
    """Return the columns of a source's table that tell sizes."""
    metadata = source.metadata if isinstance(source, FolderSource | S3Source) else None
    columns = (metadata.width_column, metadata.height_column) if metadata else ()
    return frozenset(column for column in columns if column)


def _sampled(items: list[SourceItem], sampling: SamplingSpec, note: Note) -> list[SourceItem]:
    """Return at most ``max_samples`` items, drawn by the seed and their names."""
    limit = sampling.max_samples
    if limit is None or len(items) <= limit:
        return items
    rank = {
        item.place: sha256(canonical_bytes([sampling.seed, item.name, item.place])).digest()
        for item in items
    }
    drawn = {item.place for item in sorted(items, key=lambda item: rank[item.place])[:limit]}
    for item in items:
        if item.place not in drawn:
            note("max_samples", item.place, f"not among the {limit} of {len(items)} drawn")
    return [item for item in items if item.place in drawn]


def _by_name(source: Source, note: Note) -> dict[str, SourceItem]:
    """Return a source's masks by the name of the image that each is of."""
    items: dict[str, SourceItem] = {}
    for item in source.items():
        if items.setdefault(item.name, item) is not item:
            detail = f"a mask of the same name as {items[item.name].place}, and not used"
            note("duplicate", item.place, detail)
    return items


def _entry(
    image: ReadImage, captions: tuple[str, ...], mask: tuple[Digest, str] | None
) -> IndexEntry:
    entry = IndexEntry(
        image=image.facts.digest,
        width=image.facts.width,
        height=image.facts.height,
        captions=captions,
        place=image.item.place,
    )
    return entry if mask is None else replace(entry, mask=mask[0], mask_place=mask[1])
