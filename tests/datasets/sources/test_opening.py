"""A manifest's words choose the source."""

import pytest

from diptych.datasets.findings import Note
from diptych.datasets.source_spec import (
    FolderSource,
    HuggingFaceSource,
    S3Source,
    SourceSpec,
    TableSource,
    WebDatasetSource,
)
from diptych.datasets.sources.opening import open_source


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FolderSource(path="/x"), "Folder"),
        (TableSource(path="/x.csv"), "Table"),
        (WebDatasetSource(path="/x.tar"), "WebDatasetTars"),
        (HuggingFaceSource(dataset="/x"), "HuggingFace"),
        (S3Source(bucket="pictures", region="us-east-1"), "S3Prefix"),
    ],
)
def test_every_kind_of_source_opens(spec: SourceSpec, expected: str, note: Note) -> None:
    assert type(open_source(spec, note=note)).__name__ == expected
