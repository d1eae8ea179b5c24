"""The files of a dataset's images, opened again by what its index says of them."""

import threading
from collections.abc import Mapping

from diptych.datasets.expansion import read_image
from diptych.datasets.findings import Findings
from diptych.datasets.index import DatasetIndex
from diptych.datasets.places import Places
from diptych.datasets.sources.base import Source
from diptych.datasets.sources.opening import open_source
from diptych.embedding_cache.needs import Need
from diptych.embeddings.key import PromptRecord
from diptych.errors import ImageInvalid, SourceUnavailable

__all__ = ["DatasetImages"]

_SHOWN: int = 60


class DatasetImages:
    """Reads images of several datasets; owns the sources it has opened. Safe from any thread."""

    def __init__(self, datasets: Mapping[str, DatasetIndex], places: Places) -> None:
        self.datasets, self.places = datasets, places
        self._findings = Findings()
        self._sources: dict[str, Source] = {}
        self._lock = threading.Lock()

    def read(self, need: Need) -> bytes:
        """Return an image's file, as it was indexed.

        Raises:
            DigestMismatch: It changed since.
            ImageInvalid: It cannot be had, though others of its source may be.
            ObjectNotFound: It is gone.
            SourceUnavailable: Its source does not answer.
        """
        source = self._source(need.dataset)
        try:
            return read_image(source, self.datasets[need.dataset][need.place])
        except SourceUnavailable as error:
            if not source.is_patchy:
                raise
            raise ImageInvalid(self.name(need), str(error)) from error

    def name(self, need: Need) -> str:
        """Return dataset and place of an image, dataset and beginning of a text."""
        if isinstance(need.record, PromptRecord):
            return f"{need.dataset}: {need.record.text or '':.{_SHOWN}}"
        return f"{need.dataset}: {self.datasets[need.dataset][need.place].place}"

    def _source(self, dataset: str) -> Source:
        with self._lock:
            if dataset not in self._sources:
                spec = self.datasets[dataset].spec.source
                note = self._findings.of_dataset(dataset)
                self._sources[dataset] = open_source(spec, note=note, places=self.places)
            return self._sources[dataset]
