"""What Hugging Face's ``datasets`` loads; a place is a row's number."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from diptych.datasets.places import Places
from diptych.datasets.source_spec import HuggingFaceSource
from diptych.datasets.sources.base import DISK_READERS, MAX_IMAGE_BYTES, SourceItem
from diptych.datasets.sources.rows import refuse_source
from diptych.errors import ExtraMissing, ImageInvalid, SourceUnavailable

__all__ = ["HuggingFace"]


class HuggingFace:
    """One split of a dataset; images stay bytes, nothing decodes them here."""

    is_patchy = False
    num_readers = DISK_READERS

    def __init__(
        self, spec: HuggingFaceSource, *, places: Places, columns: Collection[str] = ()
    ) -> None:
        self._spec, self._places, self._columns = spec, places, columns
        self._split: Any = None

    def items(self) -> Iterator[SourceItem]:
        """Yield the rows in order; of their columns those that are wanted."""
        split = self._loaded()
        plain = split.select_columns([one for one in split.column_names if one in self._columns])
        for number in range(len(split)):
            row: Mapping[str, object] = plain[number] if plain.column_names else {}
            yield SourceItem(place=str(number), name=str(number), row=row)

    def open(self, item: SourceItem) -> bytes:
        """Return the image's bytes, from the row or from the file that it points at."""
        image = self._loaded()[int(item.place)][self._spec.image_column]
        if not isinstance(image, Mapping):
            raise ImageInvalid(f"row {item.place}", "holds no image")
        data, path = image.get("bytes"), image.get("path")
        if data is None and path:
            data = self._file(str(path), item.place)
        if data is None:
            raise ImageInvalid(f"row {item.place}", "holds no bytes and no path")
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageInvalid(f"row {item.place}", f"more than {MAX_IMAGE_BYTES} bytes")
        return bytes(data)

    def text(self, item: SourceItem, extension: str, *, limit: int) -> bytes | None:
        """Return None: a row has no files beside it."""
        del item, extension, limit
        return None

    def _file(self, path: str, row: str) -> bytes:
        from datasets.download.streaming_download_manager import xopen  # noqa: PLC0415

        if not self._is_allowed(path):
            raise ImageInvalid(f"row {row}", f"{path!r:.200} may not be read here")
        try:
            with xopen(path, "rb") as stream:
                return bytes(stream.read(MAX_IMAGE_BYTES + 1))
        except OSError as error:
            raise ImageInvalid(f"row {row}", f"{PurePath(path).name}: {error}") from error

    def _is_allowed(self, path: str) -> bool:
        """Return whether a path in the data, which may say anything, is one to open."""
        from datasets.config import HF_CACHE_HOME  # noqa: PLC0415

        if "://" in path:
            return self._places.urls
        is_fetched = not self._spec.dataset.startswith((".", "/"))
        fetched = Path(HF_CACHE_HOME).resolve()
        is_own = is_fetched and Path(path).resolve().is_relative_to(fetched)
        return is_own or self._places.allows_path(Path(path))

    def _loaded(self) -> Any:  # noqa: ANN401 - the library's own type
        if self._split is None:
            self._split = _load(self._spec)
        return self._split


def _load(spec: HuggingFaceSource) -> Any:  # noqa: ANN401
    try:
        from datasets.exceptions import DatasetsError  # noqa: PLC0415
        from datasets.features import Image  # noqa: PLC0415 - optional and slow to import
        from datasets.load import load_dataset  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(extra="cache", needed_for="reading a Hugging Face dataset") from error
    try:
        loaded = load_dataset(
            spec.dataset, spec.configuration, split=spec.split, revision=spec.revision
        )
        if spec.image_column not in loaded.column_names:
            refuse_source(spec.dataset, f"has no column {spec.image_column!r}")
        return loaded.cast_column(spec.image_column, Image(decode=False))
    except (ConnectionError, TimeoutError) as error:
        raise SourceUnavailable(spec.dataset, f"{error!s:.200}") from error
    except (DatasetsError, OSError, ValueError, RuntimeError, TypeError) as error:
        refuse_source(spec.dataset, f"cannot be loaded: {error!s:.300}")
