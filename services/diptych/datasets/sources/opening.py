"""The source that a manifest's words describe."""

from collections.abc import Collection
from typing import assert_never

from diptych.datasets.findings import Note
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.source_spec import (
    FolderSource,
    HuggingFaceSource,
    S3Source,
    SourceSpec,
    TableSource,
    WebDatasetSource,
)
from diptych.datasets.sources.base import Source
from diptych.datasets.sources.folder import Folder
from diptych.datasets.sources.huggingface import HuggingFace
from diptych.datasets.sources.s3_prefix import S3Prefix
from diptych.datasets.sources.table import Table
from diptych.datasets.sources.tars import WebDatasetTars

__all__ = ["open_source"]


def open_source(
    spec: SourceSpec,
    *,
    note: Note,
    places: Places = EVERYWHERE,
    columns: Collection[str] = (),
) -> Source:
    """Return the source that ``spec`` describes; nothing is read before it is listed.

    Args:
        spec: With absolute paths, as ``manifest`` reads it.
        note: Takes what is found while it is listed.
        places: What may be read.
        columns: Which columns of its table its items carry.

    Raises:
        ExtraMissing: It needs what is not installed.
    """
    match spec:
        case FolderSource():
            return Folder(spec, places=places, note=note, columns=columns)
        case TableSource():
            return Table(spec, places=places, note=note, columns=columns)
        case WebDatasetSource():
            return WebDatasetTars(spec, places=places, note=note, columns=columns)
        case S3Source():
            return S3Prefix(spec, note=note, columns=columns)
        case HuggingFaceSource():
            return HuggingFace(spec, places=places, columns=columns)
        case _:
            assert_never(spec)
