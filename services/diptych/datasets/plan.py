"""From an index to a plan: the size, bucket and crop of every image, and what is done to it.

A plan is columns, some tens of bytes an image. What an epoch sees of an image follows from the plan
and the numbers of the epoch and the repeat alone, so every embedding a run will ask for is known
before it begins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.datasets.buckets import MAX_PIXELS, Assigned, assign, merge_small, nearest
from diptych.datasets.findings import Finding, Findings, Note
from diptych.datasets.index import DatasetIndex, Index, IndexEntry
from diptych.datasets.sizing import (
    Fitted,
    MicroConditions,
    Sizes,
    aspects_of,
    extent_of,
    fit,
    is_aspect_outside,
    is_too_small,
    micro_conditions,
    place_crop,
)
from diptych.datasets.spec import DatasetSpec
from diptych.embeddings.key import Preprocessing

__all__ = ["Bucket", "Plan", "PlannedImage", "make_plan", "make_plans"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Images of one size; batches are of one bucket."""

    width: int
    """In pixels."""
    height: int
    rows: Rows
    """Which of the plan's images."""
    num_cropped: int
    num_enlarged: int
    num_merged: int
    """Images that came from a bucket too small for a batch."""
    num_filled: int
    """Images an epoch sees once more so that its last batch is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """One image with all that is done to it, whatever the epoch."""

    entry: IndexEntry
    bucket: tuple[int, int]
    """Width and height."""
    resized: tuple[int, int]
    """Width and height before the crop."""


class Plan:
    """What becomes of one dataset's images; made by ``make_plan`` and never changed."""

    def __init__(
        self,
        index: DatasetIndex,
        spec: DatasetSpec,
        places: Rows,
        resized: Sizes,
        buckets: tuple[Bucket, ...],
        *,
        batch_size: int,
        findings: tuple[Finding, ...],
    ) -> None:
        self.index: Final = index
        self.spec: Final = spec
        self.batch_size: Final = batch_size
        """Images of one batch."""
        self.buckets: Final = buckets
        """Those with images, from the narrowest aspect to the widest."""
        self.findings: Final = findings
        """Every image skipped, cropped, enlarged or repeated, with its reason."""
        self._places, self._resized = places, resized
        self._bucket = np.zeros(len(places), dtype=np.int16)
        for number, bucket in enumerate(buckets):
            self._bucket[bucket.rows] = number

    def __len__(self) -> int:
        """Return how many images are used."""
        return len(self._places)

    @property
    def items(self) -> Iterator[PlannedImage]:
        """Yield every image that is used."""
        return (self.item(row) for row in range(len(self)))

    @property
    def is_view_drawn(self) -> bool:
        """Whether an epoch sees images otherwise than the one before."""
        return self.spec.crop.style == "random" or self.spec.crop.flip_probability > 0

    def item(self, row: int) -> PlannedImage:
        """Return one image."""
        width, height = self._resized[row].tolist()
        return PlannedImage(
            entry=self.index[self.place(row)], bucket=self._target(row), resized=(width, height)
        )

    def place(self, row: int) -> int:
        """Return an image's place in the index."""
        return int(self._places[row])

    def preprocessing(self, row: int, *, epoch: int, repeat: int = 0) -> Preprocessing:
        """Return what happens to an image before it is encoded.

        Args:
            row: Which image of the plan.
            epoch: From 1; 0 is what evaluation sees.
            repeat: Which of the times that the epoch sees it, from 0.
        """
        width, height = self._resized[row].tolist()
        crop, is_flipped = place_crop(
            (width, height),
            self._target(row),
            self.spec.crop,
            image=self.index.image(self.place(row)),
            epoch=epoch,
            repeat=repeat,
        )
        return Preprocessing(
            resized=(width, height),
            crop=crop,
            is_flipped=is_flipped,
            resample=self.spec.size.resample,
        )

    def conditions(self, row: int, seen: Preprocessing) -> MicroConditions:
        """Return what the network is told of an image that is seen so."""
        width, height = self.index.sizes[self.place(row)].tolist()
        return micro_conditions((width, height), seen)

    def required_images(self, epochs: Iterable[int]) -> Iterator[tuple[int, Preprocessing]]:
        """Yield each image that ``epochs`` ask an encoder for: its row, and what happens to it.

        Each comes once where epochs do not differ; where they do, the same may come again.
        """
        views = [
            (epoch, repeat) for epoch in epochs for repeat in range(self.spec.sampling.repeats)
        ]
        for epoch, repeat in views if self.is_view_drawn else views[:1]:
            for row in range(len(self)):
                yield row, self.preprocessing(row, epoch=epoch, repeat=repeat)

    def required_prompts(self) -> Iterator[str]:
        """Yield each text that an encoder is asked for; the same may come again."""
        if self.spec.captions.dropout > 0:
            yield ""
        for row in range(len(self)):
            yield from self.index.captions(self.place(row))

    def _target(self, row: int) -> tuple[int, int]:
        bucket = self.buckets[self._bucket[row]]
        return bucket.width, bucket.height


def make_plans(index: Index, *, batch_size: int) -> dict[str, Plan]:
    """Return the plan of each dataset by its id; ``batch_size`` is theirs who have none."""
    return {
        name: make_plan(one, one.spec, batch_size=batch_size)
        for name, one in index.datasets.items()
    }


def make_plan(index: DatasetIndex, spec: DatasetSpec, *, batch_size: int = 1) -> Plan:
    """Return what becomes of the images of ``index`` as ``spec`` wants it.

    Args:
        index: The images.
        spec: How they are sized, cropped and repeated; the index's own, or another.
        batch_size: The job's, where the dataset has none of its own.
    """
    size = batch_size if spec.sampling.batch_size is None else spec.sampling.batch_size
    if spec.kind == "eval":
        size = 1  # evaluation neither merges nor repeats: it would weigh some images more
    planning = _Planning(index, spec)
    places = planning.usable()
    sizes = index.sizes[places]
    images = [index.image(place) for place in places.tolist()] if spec.crop.aspects else ()
    assigned = assign(sizes, images, spec)
    kept = planning.kept(places, assigned)
    places, sizes = places[kept], sizes[kept]
    assigned = Assigned(sizes=assigned.sizes, bucket=assigned.bucket[kept])
    assigned, before = merge_small(assigned, sizes, spec, batch_size=size)
    fitted = fit(sizes, assigned.sizes[assigned.bucket], spec.size, spec.crop)
    buckets = _buckets(assigned, fitted, before, batch_size=size, repeats=spec.sampling.repeats)
    planning.note_changes(places, assigned, fitted, before)
    planning.note_fills(buckets, size)
    return Plan(
        index,
        spec,
        places,
        fitted.resized,
        buckets,
        batch_size=size,
        findings=tuple(planning.findings),
    )


def _buckets(
    assigned: Assigned, fitted: Fitted, before: Rows, *, batch_size: int, repeats: int
) -> tuple[Bucket, ...]:
    found = []
    for number in np.unique(assigned.bucket):
        rows = np.flatnonzero(assigned.bucket == number)
        width, height = assigned.sizes[number].tolist()
        found.append(
            Bucket(
                width=width,
                height=height,
                rows=rows,
                num_cropped=int((fitted.cut[rows] > 0).sum()),
                num_enlarged=int((fitted.scale[rows] > 1).sum()),
                num_merged=int((before[rows] != number).sum()),
                num_filled=-len(rows) * repeats % batch_size,
            )
        )
    return tuple(found)


class _Planning:
    """Leaves out what cannot be used, and notes what is done to the rest."""

    def __init__(self, index: DatasetIndex, spec: DatasetSpec) -> None:
        self.findings = Findings()
        self._index, self._spec = index, spec
        self._note: Note = self.findings.of_dataset(spec.id)

    def usable(self) -> Rows:
        """Return the places of images within the dataset's limits."""
        sizes, size = self._index.sizes, self._spec.size
        small, outside = is_too_small(sizes, size), is_aspect_outside(sizes, size)
        extents = extent_of(sizes, size)
        for place in np.flatnonzero(small).tolist():
            detail = f"{self._size(place)}, {extents[place]:.4g} {size.unit}; expected at least "
            self._note("size_too_small", self._index.where(place), f"{detail}{size.minimum:g}")
        for place in np.flatnonzero(outside & ~small).tolist():
            aspect = aspects_of(sizes[place : place + 1])[0]
            detail = f"{self._size(place)}, aspect {aspect:.3f}; expected {self._aspects()}"
            self._note("aspect_outside", self._index.where(place), detail)
        return np.flatnonzero(~small & ~outside)

    def kept(self, places: Rows, assigned: Assigned) -> Rows:
        """Return the rows of ``places`` that have a bucket, and note the others."""
        sizes = self._index.sizes[places]
        targets = assigned.sizes[nearest(aspects_of(sizes), assigned.sizes)]
        fitted = fit(sizes, targets, self._spec.size, self._spec.crop)
        pixels = fitted.resized.astype(np.int64).prod(axis=1)
        for row in np.flatnonzero(assigned.bucket < 0).tolist():
            where, size = self._index.where(places[row]), self._size(places[row])
            if pixels[row] > MAX_PIXELS:
                width, height = fitted.resized[row].tolist()
                detail = f"{size} would become {width}x{height} before its crop"
                self._note("image_too_large", where, detail)
            else:
                detail = f"{size}; the limit is {self._spec.size.max_upscale:g} times"
                self._note("upscale_beyond_limit", where, detail)
        return np.flatnonzero(assigned.bucket >= 0)

    def note_changes(self, places: Rows, assigned: Assigned, fitted: Fitted, before: Rows) -> None:
        """Note every image that is cropped, enlarged or repeated."""
        names = [f"{width}x{height}" for width, height in assigned.sizes.tolist()]
        repeats = self._spec.sampling.repeats
        columns = (
            places.tolist(),
            assigned.bucket.tolist(),
            before.tolist(),
            fitted.cut.tolist(),
            fitted.scale.tolist(),
        )
        for place, bucket, first, cut, scale in zip(*columns, strict=True):
            where = self._index.where(place)
            if bucket != first:
                detail = f"too few images are {names[first]}, it is {names[bucket]} instead"
                self._note("bucket_merged", where, detail)
            if cut > 0:
                detail = f"{self._size(place)} to {names[bucket]}: {cut:.1%} cut away"
                self._note("cut_by_crop", where, detail)
            if scale > 1:
                detail = f"{self._size(place)} to {names[bucket]}: {scale:.2f} times"
                self._note("enlarged", where, detail)
            if repeats > 1:
                self._note("repeats", where, f"{repeats} times an epoch")

    def note_fills(self, buckets: tuple[Bucket, ...], batch_size: int) -> None:
        """Note the buckets whose last batch of an epoch is filled."""
        for bucket in buckets:
            if bucket.num_filled:
                detail = (
                    f"{len(bucket.rows)} images in batches of {batch_size}: "
                    f"{bucket.num_filled} are seen once more an epoch, others each time"
                )
                self._note("bucket_filled", f"bucket {bucket.width}x{bucket.height}", detail)

    def _size(self, place: int) -> str:
        width, height = self._index.sizes[place].tolist()
        return f"{width}x{height}"

    def _aspects(self) -> str:
        size = self._spec.size
        parts = (("at least", size.minimum_aspect), ("at most", size.maximum_aspect))
        return " and ".join(f"{word} {limit:g}" for word, limit in parts if limit is not None)
