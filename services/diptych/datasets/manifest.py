"""Manifests as files: read with everything that is wrong at once, written without defaults."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from diptych.datasets.manifest_text import MAX_TEXT_BYTES, PlainText, parse_text
from diptych.datasets.manifest_text import Path as FieldPath
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import (
    FolderSource,
    HuggingFaceSource,
    MetadataSpec,
    S3Source,
    SourceSpec,
    TableSource,
)
from diptych.datasets.spec import Manifest
from diptych.datasets.strict_reading import read_strictly, value_at
from diptych.errors import DatasetInvalid, FieldViolation
from diptych.home_paths import at_home

__all__ = [
    "is_local_dataset",
    "manifest_at",
    "parse_manifest",
    "read_manifest",
    "write_manifest",
]

_ALWAYS_WRITTEN: Final = frozenset({"version", "type"})
MAX_SHOWN: Final = 60


class _Dumper(yaml.SafeDumper):
    """Quotes texts that are numbers to JSON, and to whoever reads a manifest, alone: 1e3."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_manifest(path: Path, *, places: Places = EVERYWHERE) -> Manifest:
    """Return the manifest in a file, with the paths of its sources made absolute.

    Raises:
        DatasetInvalid: It cannot be read, or says something wrong; everything wrong is named,
            each with its line.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        problem = f"cannot read {str(path)!r:.200}: {error.strerror}"
        raise DatasetInvalid([FieldViolation(field="manifest", description=problem)]) from error
    return parse_manifest(data, folder=path.parent, places=places)


def parse_manifest(data: bytes, *, folder: Path, places: Places = EVERYWHERE) -> Manifest:
    """Return the manifest that ``data`` spells in YAML or JSON; its paths begin at ``folder``.

    Raises:
        DatasetInvalid: As ``read_manifest``.
    """
    plain = parse_text(data)
    manifest = None
    if not any(found.field == "manifest" for found in plain.violations):
        manifest = manifest_at(plain, (), folder=folder, places=places)
    if manifest is None or plain.violations:
        raise DatasetInvalid(plain.violations)
    return manifest


def manifest_at(
    plain: PlainText, at: FieldPath, *, folder: Path, places: Places = EVERYWHERE
) -> Manifest | None:
    """Return the manifest that stands at ``at`` in a text; what is wrong is noted in ``plain``.

    Returns:
        None where it is no manifest; else one with absolute paths, which may lie where ``places``
        does not allow: then that is noted.
    """
    value = value_at(plain, at)
    has_ids = _refuse_repeated_ids(plain, value, at)
    manifest = read_strictly(Manifest, plain, value, at=at, with_root=has_ids)
    if manifest is None:
        return None
    return _Placing(plain, folder.absolute(), places).placed(manifest, at)


def write_manifest(manifest: Manifest) -> str:
    """Return ``manifest`` as YAML that says only what differs from the defaults."""
    return yaml.dump(
        _written(manifest), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def is_local_dataset(source: HuggingFaceSource) -> bool:
    """Return whether a source of Hugging Face's names a path rather than something on its hub."""
    return source.dataset.startswith((".", "/"))


def _refuse_repeated_ids(plain: PlainText, value: object, at: FieldPath) -> bool:
    """Return whether every id names one dataset, and note those that do not at their lines."""
    datasets = value.get("datasets") if isinstance(value, dict) else None
    first: dict[str, int] = {}
    is_sound = True
    for index, one in enumerate(datasets if isinstance(datasets, list) else ()):
        name = one.get("id") if isinstance(one, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            place = (*at, "datasets", index, "id")
            plain.refuse(place, f"{name!r} is datasets[{first[name]}]'s")
            is_sound = False
    return is_sound


class _Placing:
    """Makes the paths of sources absolute and refuses those that may not be read."""

    def __init__(self, plain: PlainText, folder: Path, places: Places) -> None:
        self._plain, self._folder, self._places = plain, folder, places

    def placed(self, manifest: Manifest, at: FieldPath) -> Manifest:
        datasets = []
        for index, dataset in enumerate(manifest.datasets):
            path: FieldPath = (*at, "datasets", index)
            masks = dataset.masks
            if masks is not None:
                source = self._source(masks.source, (*path, "masks", "source"))
                masks = replace(masks, source=source)
            source = self._source(dataset.source, (*path, "source"))
            datasets.append(replace(dataset, source=source, masks=masks))
        return replace(manifest, datasets=tuple(datasets))

    def _source(self, source: SourceSpec, path: FieldPath) -> SourceSpec:
        if isinstance(source, S3Source):
            if not self._places.allows_bucket(source.bucket, source.prefix):
                self._plain.refuse((*path, "bucket"), f"s3://{source.bucket} may not be read here")
            if not self._places.allows_endpoint(source.endpoint_url):
                self._plain.refuse((*path, "endpoint_url"), "may not be asked from here")
            return source
        if isinstance(source, HuggingFaceSource):
            if is_local_dataset(source):
                return replace(source, dataset=self._path(source.dataset, (*path, "dataset")))
            if not self._places.hub:
                self._plain.refuse((*path, "dataset"), "names of the hub may not be read here")
            return source
        source = replace(source, path=self._path(source.path, (*path, "path")))
        if isinstance(source, FolderSource) and source.metadata is not None:
            metadata = self._metadata(source.metadata, Path(source.path), (*path, "metadata"))
            return replace(source, metadata=metadata)
        if isinstance(source, TableSource):
            base = source.base and self._path(source.base, (*path, "base"))
            cache = source.cache and self._path(source.cache, (*path, "cache"))
            return replace(source, base=base, cache=cache)
        return source

    def _metadata(self, metadata: MetadataSpec, folder: Path, path: FieldPath) -> MetadataSpec:
        self._path(str(folder / metadata.path), (*path, "path"))
        return metadata

    def _path(self, text: str, path: FieldPath) -> str:
        if "\0" in text:
            self._plain.refuse(path, "a path has no NUL")
            return text
        absolute = self._folder / at_home(text)
        if not self._places.allows_path(absolute):
            self._plain.refuse(path, f"{text!r:.{MAX_SHOWN}} is outside the folders read here")
        return str(absolute)


def _written(value: Any) -> Any:  # noqa: ANN401 - any part of a manifest
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _written(held) for name, held in _differing(value)}
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _differing(spec: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for one in fields(spec):
        value = getattr(spec, one.name)
        if one.name in _ALWAYS_WRITTEN or value != _default(one):
            yield one.name, value


def _default(one: Field[Any]) -> object:
    return one.default if one.default is not MISSING else MISSING
