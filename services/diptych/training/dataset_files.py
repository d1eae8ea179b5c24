"""The files behind a plan: its images where they have to be encoded, and its masks."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from diptych.datasets.expansion import read_image
from diptych.datasets.findings import Findings
from diptych.datasets.index import IndexEntry
from diptych.datasets.pictures import prepare
from diptych.datasets.places import Places
from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Sample, mask_preprocessing
from diptych.datasets.source_spec import SourceSpec
from diptych.datasets.sources.base import Source, SourceItem
from diptych.datasets.sources.opening import open_source
from diptych.digest import Digest
from diptych.errors import DigestMismatch, ImageInvalid, ObjectNotFound

__all__ = ["DatasetFiles"]

_HALF: Final = 0.5


class DatasetFiles:
    """Reads files of several datasets; owns the sources it has opened. Safe from any thread."""

    def __init__(self, plans: Mapping[str, Plan], places: Places) -> None:
        self._plans, self._places = plans, places
        self._findings = Findings()
        self._sources: dict[tuple[str, str], Source] = {}
        self._lock = threading.Lock()

    def image(self, dataset: str, entry: IndexEntry) -> bytes:
        """Return an image's file as it was indexed.

        Raises:
            ImageInvalid: It changed since, is gone, or cannot be read.
            SourceUnavailable: Its source does not answer.
        """
        with _told_of(f"{entry.place} of dataset {dataset}"):
            return read_image(self._source(dataset, "images"), entry)

    def mask(self, dataset: str, sample: Sample, *, pixels_per_latent: int) -> Tensor | None:
        """Return how much each latent of a sample counts [1, h, w], None where it has no mask.

        Float32 in [0, 1]: the mask is resized, cropped and flipped as its image, then averaged
        over the pixels of a latent.

        Raises:
            ImageInvalid: The mask changed since it was indexed, is gone, or cannot be read.
            SourceUnavailable: Its source does not answer.
        """
        entry, masks = sample.entry, self._plans[dataset].spec.masks
        if entry.mask is None or masks is None:
            return None
        item = SourceItem(place=entry.mask_place, name="")
        with _told_of(f"{entry.mask_place} of dataset {dataset}'s masks"):
            data = self._source(dataset, "masks").open(item)
            found = Digest.of_bytes(data)
            if found != entry.mask:
                raise DigestMismatch(expected=str(entry.mask), actual=str(found))
        seen = mask_preprocessing(sample.preprocessing)
        pixels = torch.from_numpy(prepare(data, seen, source=entry.mask_place).copy())
        weights = pixels.float().mean(dim=-1) / 255
        if masks.binary:
            weights = (weights >= _HALF).float()
        return torch.nn.functional.avg_pool2d(weights[None], pixels_per_latent)

    def _source(self, dataset: str, kind: str) -> Source:
        with self._lock:
            if (dataset, kind) not in self._sources:
                note = self._findings.of_dataset(dataset)
                spec = self._spec(dataset, kind)
                self._sources[dataset, kind] = open_source(spec, note=note, places=self._places)
            return self._sources[dataset, kind]

    def _spec(self, dataset: str, kind: str) -> SourceSpec:
        spec = self._plans[dataset].spec
        if kind == "images":
            return spec.source
        assert spec.masks is not None, "asked for where there are masks"
        return spec.masks.source


@contextmanager
def _told_of(image: str) -> Iterator[None]:
    """Say which image it is that cannot be read as it was indexed."""
    try:
        yield
    except DigestMismatch as error:
        raise ImageInvalid(image, "changed since the job listed it") from error
    except ObjectNotFound as error:
        raise ImageInvalid(image, "is gone since the job listed it") from error
    except ImageInvalid as error:
        raise ImageInvalid(image, error.problem) from error
