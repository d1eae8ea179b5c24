"""Many images read at once, and only those that changed since they were read before."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from diptych.datasets.facts import Facts, facts_of
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.findings import Note
from diptych.datasets.source_spec import S3Source, SourceSpec
from diptych.datasets.sources.base import Source, SourceItem
from diptych.errors import ImageInvalid, ObjectNotFound, SourceUnavailable

__all__ = ["ImageReader", "OnProgress", "ReadImage", "Wish"]

OnProgress = Callable[[str, int, int], None]
"""Takes a dataset's id, how many of its images are done and how many there are."""

_AT_ONCE: Final = 64
"""Images that one thread reads before it hands them over."""
_KEPT_AT_ONCE: Final = 16
"""Such portions between two writes of the cache."""


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image, what its bytes are, and the text beside it."""

    item: SourceItem
    facts: Facts
    text: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of each image besides its digest and size."""

    examine: bool = False
    """Whether its pixels are decoded to look at them."""
    extension: str | None = None
    """Of the text beside it; None reads none."""
    text_limit: int = 0
    """Bytes of the text that are read."""


class ImageReader:
    """Reads images of any source, with a cache of what was found before."""

    def __init__(self, cache: FactsCache | None, progress: OnProgress) -> None:
        self._cache, self._progress = cache, progress

    def read(
        self,
        source: Source,
        spec: SourceSpec,
        items: Sequence[SourceItem],
        *,
        wish: Wish,
        label: str,
        note: Note,
    ) -> Iterator[ReadImage]:
        """Yield the items that could be read, in order; the others are noted.

        Args:
            source: Where they are from.
            spec: What ``source`` was opened with.
            items: What to read.
            wish: What is wanted of each.
            label: What progress is told of.
            note: Takes what cannot be read.

        Raises:
            SourceUnavailable: The source does not answer, and that tells something.
            StoreFull: The cache has no room.
        """
        name = _source_name(spec)
        portions = [items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)]
        cached = [self._cached(name, portion, wish) for portion in portions]
        num_done = 0
        unkept: list[ReadImage] = []
        num_threads = max(source.num_readers, (os.cpu_count() or 1) if wish.examine else 1)
        with ThreadPoolExecutor(num_threads, thread_name_prefix="index") as pool:
            jobs = zip(portions, cached, strict=True)
            reading = pool.map(
                lambda job: [_read(source, one, job[1], wish) for one in job[0]], jobs
            )
            for number, portion in enumerate(reading):
                for item, found in zip(portions[number], portion, strict=True):
                    if isinstance(found, ReadImage):
                        if item.place not in cached[number]:
                            unkept.append(found)
                        yield found
                    else:
                        _note_unread(item, found, note, is_patchy=source.is_patchy)
                num_done += len(portion)
                self._progress(label, num_done, len(items))
                if number % _KEPT_AT_ONCE == 0 or num_done == len(items):
                    self._keep(name, unkept)
                    unkept = []

    def _cached(self, name: str, portion: Sequence[SourceItem], wish: Wish) -> Mapping[str, Facts]:
        return self._cache.find(name, portion, examine=wish.examine) if self._cache else {}

    def _keep(self, name: str, found: Sequence[ReadImage]) -> None:
        if self._cache and found:
            self._cache.keep(name, [(one.item, one.facts) for one in found])


def _read(
    source: Source, item: SourceItem, cached: Mapping[str, Facts], wish: Wish
) -> ReadImage | Exception:
    """Return an image, or why it cannot be read."""
    facts = cached.get(item.place)
    try:
        if facts is None:
            facts = facts_of(source.open(item), examine=wish.examine)
        text = None
        if wish.extension is not None and not facts.problem:
            text = source.text(item, wish.extension, limit=wish.text_limit)
    except (ImageInvalid, ObjectNotFound, SourceUnavailable) as error:
        return error
    return ReadImage(item, facts, text)


def _note_unread(item: SourceItem, error: Exception, note: Note, *, is_patchy: bool) -> None:
    if isinstance(error, SourceUnavailable) and not is_patchy:
        raise error
    note("unreadable", item.place, str(error))


def _source_name(spec: SourceSpec) -> str:
    """Return what tells a source's places from another's: how images are found, no more."""
    if isinstance(spec, S3Source):
        return f"s3 {spec.endpoint_url or ''} {spec.bucket} {spec.prefix}"
    where = getattr(spec, "path", None) or getattr(spec, "dataset", "")
    return f"{spec.type} {where} {getattr(spec, 'base', None) or ''}".rstrip()
