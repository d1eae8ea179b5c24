"""What a manifest may say about sources."""

import pytest
from pydantic import TypeAdapter, ValidationError

from diptych.datasets.source_spec import FolderSource, S3Source, SourceSpec

ADAPTER: TypeAdapter[SourceSpec] = TypeAdapter(SourceSpec)


def test_the_type_chooses_the_source() -> None:
    found = ADAPTER.validate_python({"type": "s3", "bucket": "pictures"})
    assert found == S3Source(bucket="pictures")


def test_a_folder_is_read_with_its_subfolders_and_without_links_out_of_it() -> None:
    source = FolderSource(path="pictures")
    assert (source.recursive, source.links) == (True, "inside")


def test_a_key_of_another_source_is_refused() -> None:
    with pytest.raises(ValidationError, match="bucket"):
        ADAPTER.validate_python({"type": "folder", "path": "pictures", "bucket": "pictures"})
