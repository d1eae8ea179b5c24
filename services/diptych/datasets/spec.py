"""What a manifest may say: the whole of it as values, each field under the name it has in the file.

A manifest names one or more datasets. Each has a source of images, captions, a size, buckets, a
crop, a way of being drawn and a way of being cached; whatever is left out has the default below.
Ranges of single fields are ``Field`` constraints, rules between fields are in ``__post_init__``.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, with_config

from diptych.datasets.source_spec import STRICT, SourceSpec, Text

__all__ = [
    "BucketsSpec",
    "CacheMode",
    "CacheSpec",
    "CaptionFilter",
    "CaptionsSpec",
    "ChecksSpec",
    "CropSpec",
    "DatasetKind",
    "DatasetSpec",
    "Manifest",
    "MasksSpec",
    "SamplingSpec",
    "ShuffleSpec",
    "SizeSpec",
    "SizeUnit",
]

DatasetKind = Literal["train", "regularisation", "eval"]
"""``regularisation``: its target is what the model painted before training. ``eval``: held out."""
SizeUnit = Literal["pixel_area", "shorter_edge", "megapixels"]
CacheMode = Literal["read_through", "on_demand", "read_only", "bypass"]
"""``read_through``: made before training begins, kept; ``on_demand``: made when first asked for,
kept; ``read_only``: a miss is an error; ``bypass``: made each time, nothing kept."""

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Length = Annotated[float, Field(gt=0.0, le=65536.0)]
Aspect = Annotated[float, Field(ge=0.05, le=20.0)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
BucketEdge = Annotated[int, Field(ge=64, le=16384)]


def _check_order(spec: object, low: str, high: str) -> None:
    first, last = getattr(spec, low), getattr(spec, high)
    if first is not None and last is not None and first > last:
        raise ValueError(f"{low} {first:g} is above {high} {last:g}")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFilter:
    """A change made to every caption, before tags are shuffled and before a prompt is prepended."""

    pattern: Text
    """A regular expression."""
    replacement: str = ""
    """May refer to groups as ``\\1``; empty removes what matches."""

    def __post_init__(self) -> None:
        """Check that the expression is one, and that its groups exist."""
        try:
            re.sub(self.pattern, self.replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"{self.pattern!r:.80} is no regular expression: {error}") from error


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleSpec:
    """Further captions made by shuffling a caption's tags, the same ones for the same seed."""

    num_variants: Annotated[int, Field(ge=1, le=1000)] = 1
    separator: Text = ","
    num_kept: Annotated[int, Field(ge=0, le=1000)] = 0
    """Tags at the beginning that stay where they are."""
    include_original: bool = True
    seed: Seed = 0


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsSpec:
    """Where an image's captions come from and what is done to them, in the order of the fields."""

    strategy: Literal["text_file", "file_name", "instance_prompt", "column", "none"] = "text_file"
    """``column`` reads the source's table: metadata, parquet, CSV, a dataset's or a tar's JSON.
    ``none``: every image has the empty caption."""
    extension: Annotated[str, Field(pattern=r"^\.[A-Za-z0-9._-]{1,32}$")] = ".txt"
    """Of the file beside an image, for ``text_file``."""
    column: Text = "text"
    """May hold one caption or a list of them."""
    fallback_column: Text | None = None
    """Read where ``column`` is empty."""
    fallback: Literal["skip", "empty", "instance_prompt"] = "skip"
    """What an image without a caption gets; ``skip`` leaves it out. Each is reported."""
    split_lines: bool = True
    """Whether every line is a caption of its own."""
    filters: tuple[CaptionFilter, ...] = ()
    shuffle: ShuffleSpec | None = None
    instance_prompt: Text | None = None
    prepend_instance_prompt: bool = False
    max_bytes: Annotated[int, Field(ge=1, le=2**20)] = 16 * 2**10
    """UTF-8 bytes of one image's captions; a longer text is reported, not cut."""
    dropout: Share = 0.0
    """Probability with which sampling replaces a caption by the empty one."""

    def __post_init__(self) -> None:
        """Check that an instance prompt is there where one is asked for."""
        is_needed = "instance_prompt" in {self.strategy, self.fallback}
        if self.instance_prompt is None and (is_needed or self.prepend_instance_prompt):
            raise ValueError("instance_prompt is missing, and it is asked for")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeSpec:
    """How large the images are that a model sees. Lengths are in ``unit``."""

    resolution: Length = 1024.0
    unit: SizeUnit = "pixel_area"
    """``pixel_area``: the edge in pixels of a square of the same area; ``shorter_edge``: in pixels;
    ``megapixels``: millions of pixels."""
    minimum: Length | None = None
    """Smaller images are left out, and reported."""
    maximum: Length | None = None
    """Larger images are first brought down to ``target``, so that a crop shows their subject."""
    target: Length | None = None
    minimum_aspect: Aspect | None = None
    """Width over height; images outside are left out, and reported."""
    maximum_aspect: Aspect | None = None
    max_upscale: Annotated[float, Field(ge=1.0, le=64.0)] | None = None
    """Factor beyond which an image is left out rather than enlarged; None enlarges any."""
    resample: Literal["lanczos", "bicubic", "bilinear", "area", "nearest"] = "lanczos"

    def __post_init__(self) -> None:
        """Check that limits come in pairs where they must, and in order."""
        if (self.maximum is None) != (self.target is None):
            raise ValueError("maximum and target go together")
        for low, high in (("minimum", "maximum"), ("target", "maximum"), ("resolution", "target")):
            _check_order(self, low, high)
        _check_order(self, "minimum_aspect", "maximum_aspect")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class BucketsSpec:
    """The sizes that images are brought to: by aspect, or from a list."""

    edge: Literal[8, 16, 32, 64, 128] = 64
    """Widths and heights are multiples of it, in pixels."""
    aspect_decimals: Annotated[int, Field(ge=1, le=4)] | None = 2
    """Aspects are rounded to so many decimals before sizes are computed; None rounds none."""
    sizes: tuple[tuple[BucketEdge, BucketEdge], ...] = ()
    """Own map: width and height in pixels; an image takes the one nearest to its aspect. Empty
    computes sizes from the resolution."""
    small: Literal["merge", "fill"] = "merge"
    """A bucket with too few images for a batch joins its neighbour, or repeats images."""

    def __post_init__(self) -> None:
        """Check that own sizes are multiples of the edge."""
        bad = [size for size in self.sizes if size[0] % self.edge or size[1] % self.edge]
        if bad:
            raise ValueError(f"sizes {bad[:4]} are not multiples of edge {self.edge}")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CropSpec:
    """What of an image is seen."""

    style: Literal["centre", "random", "corner", "preserve"] = "centre"
    """``corner``: from the top left; ``random``: another place each epoch, by ``seed``;
    ``preserve``: nothing is cut, the image is brought to its bucket's exact size, which stretches
    it by what rounding to the edge takes."""
    aspect: Literal["preserve", "square", "closest", "random"] = "preserve"
    """The bucket's aspect: the image's own, 1, the nearest of ``aspects``, or one of them drawn by
    ``seed``."""
    aspects: tuple[Aspect, ...] = ()
    seed: Seed = 0
    flip_probability: Share = 0.0
    """With which an epoch sees an image left to right."""

    def __post_init__(self) -> None:
        """Check that aspects are there exactly where they are used."""
        if bool(self.aspects) != (self.aspect in {"closest", "random"}):
            raise ValueError("aspects belong to aspect: closest and aspect: random, and only there")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """When and how often a dataset's images are seen."""

    repeats: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Times an epoch sees each image."""
    probability: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """Weight against the other datasets' when a batch is drawn."""
    start_epoch: Count = 1
    end_epoch: Count | None = None
    """Last one, inclusive."""
    start_step: Annotated[int, Field(ge=0, le=10**9)] = 0
    end_step: Count | None = None
    """Last one, inclusive."""
    max_samples: Count | None = None
    """Images kept of the source, drawn by ``seed``; the others are reported."""
    seed: Seed = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Of this dataset's batches; None is the job's."""

    def __post_init__(self) -> None:
        """Check that the dataset's time does not end before it begins."""
        _check_order(self, "start_epoch", "end_epoch")
        _check_order(self, "start_step", "end_step")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class MasksSpec:
    """Pictures that weigh the loss: of the same path as an image, whatever their extension."""

    source: SourceSpec
    binary: bool = False
    """Whether a mask is cut at one half; else its brightness is a weight."""
    probability: Share = 1.0
    """With which a batch uses its masks."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """How embeddings are kept; read-through unless set."""

    images: CacheMode = "read_through"
    prompts: CacheMode = "read_through"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksSpec:
    """What happens to images that are as good as others, or hurt."""

    near_duplicates: Literal["report", "skip", "ignore"] = "report"
    """``skip`` leaves out all but the first of a group, and reports it."""
    max_distance: Annotated[int, Field(ge=0, le=11)] = 4
    """Bits of 64 in which the perceptual hashes of near duplicates may differ."""
    damaged: Literal["report", "skip", "ignore"] = "report"
    """Of pictures that can be read though they are hurt by compression or cut short."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One dataset."""

    id: Identifier
    source: SourceSpec
    kind: DatasetKind = "train"
    disabled: bool = False
    captions: CaptionsSpec = CaptionsSpec()
    size: SizeSpec = SizeSpec()
    buckets: BucketsSpec = BucketsSpec()
    crop: CropSpec = CropSpec()
    sampling: SamplingSpec = SamplingSpec()
    masks: MasksSpec | None = None
    cache: CacheSpec = CacheSpec()
    checks: ChecksSpec = ChecksSpec()


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that one file says."""

    version: Literal[1] = 1
    datasets: tuple[DatasetSpec, ...]
    draw: Literal["weighted", "uniform"] = "weighted"
    """Which dataset the next batch is of: by ``probability`` and number of images, or by
    ``probability`` alone."""
    seed: Seed = 0
    """Of the order of batches."""

    def __post_init__(self) -> None:
        """Check that there are datasets, each with an id of its own."""
        ids = [dataset.id for dataset in self.datasets]
        if not ids:
            raise ValueError("datasets is empty")
        if repeated := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"several datasets have the id {', '.join(repeated[:8])}")
