"""Where a dataset's images may come from, as a manifest says it."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, with_config

__all__ = [
    "STRICT",
    "FolderSource",
    "HuggingFaceSource",
    "MetadataSpec",
    "S3Source",
    "SourceSpec",
    "TableSource",
    "Text",
    "WebDatasetSource",
]

STRICT: Final = ConfigDict(extra="forbid")
"""An unknown key is an error."""
Text = Annotated[str, Field(min_length=1, max_length=4096)]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSpec:
    """A table beside the images: JSON lines, CSV or parquet, by its suffix."""

    path: Text = "metadata.jsonl"
    """Relative to the source's folder or prefix."""
    file_column: Text = "file_name"
    """Names an image, relative to the table."""
    has_extension: bool = True
    """Whether ``file_column`` holds the file's extension; else it is its name without."""
    width_column: Text | None = None
    """Width in pixels; a picture of another size than the table says is reported."""
    height_column: Text | None = None


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """Images in a local folder, in order of their paths; ImageFolder where it has metadata."""

    path: Text
    """Relative to the manifest."""
    type: Literal["folder"] = "folder"
    recursive: bool = True
    links: Literal["inside", "refuse", "follow"] = "inside"
    """Symbolic links: ``inside`` follows those that stay in the folder and reports the others,
    ``refuse`` reports all, ``follow`` goes wherever the caller's roots allow."""
    metadata: MetadataSpec | None = None


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceSource:
    """What Hugging Face's ``datasets`` loads: a folder of files, or a name on its hub."""

    dataset: Text
    """Path, relative to the manifest where it begins with a dot or a slash; else a hub's name."""
    type: Literal["huggingface"] = "huggingface"
    configuration: Text | None = None
    split: Text = "train"
    revision: Text | None = None
    image_column: Text = "image"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TableSource:
    """A parquet or CSV file whose rows name images by url or path."""

    path: Text
    """Of the table, relative to the manifest."""
    type: Literal["table"] = "table"
    image_column: Text = "url"
    """http(s) urls, or paths relative to ``base``."""
    base: Text | None = None
    """Folder, relative to the manifest; None is the table's own."""
    cache: Text | None = None
    """Folder in which downloads are kept, relative to the manifest; None keeps none."""
    max_bytes: Annotated[int, Field(ge=1, le=128 * 2**20)] = 128 * 2**20
    """Of one download."""
    timeout_s: Annotated[float, Field(gt=0.0, le=600.0)] = 20.0
    """Seconds in which a download must be whole."""
    num_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Of one download, where another may help."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class WebDatasetSource:
    """Tars of samples: files of one name with different extensions, read without unpacking."""

    path: Text
    """A tar, a folder of tars, or a pattern such as ``shards/train-*.tar``."""
    type: Literal["webdataset"] = "webdataset"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """Images below a prefix of a bucket; credentials come from the process's surroundings."""

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,62}$")]
    type: Literal["s3"] = "s3"
    prefix: Annotated[str, Field(max_length=1024)] = ""
    endpoint_url: Text | None = None
    """For stores other than AWS."""
    region: Text | None = None
    metadata: MetadataSpec | None = None


SourceSpec = Annotated[
    FolderSource | HuggingFaceSource | TableSource | WebDatasetSource | S3Source,
    Field(discriminator="type"),
]
