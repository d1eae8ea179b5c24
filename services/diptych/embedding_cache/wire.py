"""Messages to what they ask for: pure conversions that find everything wrong at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from diptych.digest import Digest
from diptych.embedding_cache.ports import CacheMode, NeedsConfig, PromptWish, Stage, WarmOrder
from diptych.embeddings.key import Preprocessing
from diptych.rpc.violations import Violations
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1 import types_pb2

__all__ = [
    "MAX_KEYS",
    "ImageOrder",
    "ImagesOrder",
    "PromptsOrder",
    "checked_keys",
    "image_order",
    "images_order",
    "prompts_order",
    "warm_order",
]

MAX_KEYS: Final = 65_536
MAX_PROMPTS: Final = 4096
MAX_PROMPT_BYTES: Final = 64 * 2**10
MAX_WINDOWS: Final = 64
MAX_CLIP_SKIP: Final = 64
MAX_MANIFEST_BYTES: Final = 2**20
MAX_BATCH_SIZE: Final = 1 << 16
MAX_EPOCHS: Final = 1000
MAX_SIDE: Final = 1 << 14
MAX_PIXELS: Final = 1 << 26
KEY_BYTES: Final = 32
SIZE_MULTIPLE: Final = 8
MAX_FRAME: Final = 1 << 16
WHITE: Final = 0xFFFFFF
STAGES: Final = {
    pb.ENCODER_STAGE_UNSPECIFIED: None,
    pb.ENCODER_STAGE_BASE: Stage.BASE,
    pb.ENCODER_STAGE_REFINER: Stage.REFINER,
}
MODES: Final = {
    pb.CACHE_MODE_UNSPECIFIED: CacheMode.READ_THROUGH,
    pb.CACHE_MODE_READ_THROUGH: CacheMode.READ_THROUGH,
    pb.CACHE_MODE_READ_ONLY: CacheMode.READ_ONLY,
    pb.CACHE_MODE_BYPASS: CacheMode.BYPASS,
}
LONG_PROMPTS: Final = {
    types_pb2.LONG_PROMPT_UNSPECIFIED: "error",
    types_pb2.LONG_PROMPT_ERROR: "error",
    types_pb2.LONG_PROMPT_TRUNCATE: "truncate",
    types_pb2.LONG_PROMPT_CHUNK: "chunk",
}
LONG_CAPTIONS: Final[Mapping[int, Literal["truncate", "chunk"]]] = {
    types_pb2.LONG_PROMPT_UNSPECIFIED: "truncate",
    types_pb2.LONG_PROMPT_TRUNCATE: "truncate",
    types_pb2.LONG_PROMPT_CHUNK: "chunk",
}
RESAMPLES: Final = ("lanczos", "bicubic", "bilinear", "area", "nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsOrder:
    """What an EncodePrompts call asks for; no stage is the base, or the one that is hosted."""

    stage: Stage | None
    wishes: tuple[PromptWish, ...]
    mode: CacheMode
    with_values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesOrder:
    """How an EncodeImages call goes."""

    stage: Stage | None
    mode: CacheMode
    with_values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """An image to come."""

    size_bytes: int
    sha256: bytes
    """Empty: not checked."""
    preprocessing: Preprocessing
    label: str


def prompts_order(message: pb.EncodePromptsRequest) -> PromptsOrder:
    """Return what ``message`` asks for.

    Raises:
        InvalidRequest: Everything that is wrong with it.
    """
    found = Violations()
    if not 1 <= len(message.prompts) <= MAX_PROMPTS:
        found.add("prompts", f"{len(message.prompts)} texts are not in [1, {MAX_PROMPTS}]")
    long_prompt = LONG_PROMPTS.get(message.long_prompt)
    if long_prompt is None:
        found.add("long_prompt", f"{message.long_prompt} is unknown")
    wishes = tuple(
        _prompt_wish(found, one, long_prompt or "error", f"prompts[{number}]")
        for number, one in enumerate(message.prompts[:MAX_PROMPTS])
    )
    stage, mode = _stage(found, "stage", message.stage), _mode(found, message.mode)
    found.raise_if_any()
    with_values = message.return_values or mode is CacheMode.BYPASS
    return PromptsOrder(stage=stage, wishes=wishes, mode=mode, with_values=with_values)


def images_order(message: pb.EncodeImagesHeader) -> ImagesOrder:
    """Return how the call goes that ``message`` begins.

    Raises:
        InvalidRequest: Everything that is wrong with it.
    """
    found = Violations()
    stage, mode = _stage(found, "header.stage", message.stage), _mode(found, message.mode)
    found.raise_if_any()
    with_values = message.return_values or mode is CacheMode.BYPASS
    return ImagesOrder(stage=stage, mode=mode, with_values=with_values)


def image_order(message: pb.ImageInput, number: int, max_bytes: int) -> ImageOrder:
    """Return the image that ``message`` announces, the ``number``-th of its call.

    Raises:
        InvalidRequest: Everything that is wrong with it.
    """
    found, field = Violations(), f"images[{number}]"
    found.integer(f"{field}.size_bytes", message.size_bytes, 1, max_bytes)
    if len(message.sha256) not in {0, KEY_BYTES}:
        found.add(f"{field}.sha256", f"{len(message.sha256)} bytes are no SHA-256")
    label = found.text(f"{field}.label", message.label, 1024)
    preprocessing = _preprocessing(found, message.preprocessing, f"{field}.preprocessing")
    found.raise_if_any()
    return ImageOrder(
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        preprocessing=preprocessing,
        label=label or field,
    )


def checked_keys(
    keys: Sequence[bytes], *, field: str = "keys", at_least: int = 1, at_most: int = MAX_KEYS
) -> list[Digest]:
    """Return ``keys`` as digests, each once, in order.

    Raises:
        InvalidRequest: There are too few or too many, or one is none.
    """
    found = Violations()
    if not at_least <= len(keys) <= at_most:
        found.add(field, f"{len(keys)} keys are not in [{at_least}, {at_most}]")
    for number, key in enumerate(keys):
        if len(key) != KEY_BYTES:
            found.add(f"{field}[{number}]", f"{len(key)} bytes are no key, which has {KEY_BYTES}")
            break
    found.raise_if_any()
    return [Digest(hex=key.hex()) for key in dict.fromkeys(keys)]


def warm_order(message: pb.WarmDatasetRequest, *, hosted: Sequence[Stage]) -> WarmOrder:
    """Return what ``message`` asks for: for all ``hosted`` stages, if it names none.

    Raises:
        InvalidRequest: Everything that is wrong with it.
    """
    found = Violations()
    found.text("manifest", message.manifest, MAX_MANIFEST_BYTES, required=True)
    stages = [
        _stage(found, f"stages[{number}]", stage) for number, stage in enumerate(message.stages)
    ]
    long_prompt = LONG_CAPTIONS.get(message.long_prompt)
    if long_prompt is None:
        found.add("long_prompt", f"{message.long_prompt} is neither to truncate nor to chunk")
    needs = NeedsConfig(
        batch_size=found.integer("batch_size", message.batch_size, 0, MAX_BATCH_SIZE) or 1,
        num_epochs=found.integer("num_epochs", message.num_epochs, 0, MAX_EPOCHS) or 1,
        long_prompt=long_prompt or "truncate",
        force=message.force,
    )
    found.raise_if_any()
    named = dict.fromkeys(stage or Stage.BASE for stage in stages)
    return WarmOrder(manifest=message.manifest, stages=tuple(named) or tuple(hosted), needs=needs)


def _prompt_wish(
    found: Violations, message: pb.PromptInput, long_prompt: str, field: str
) -> PromptWish:
    text = message.text if message.HasField("text") else None
    found.text(f"{field}.text", text or "", MAX_PROMPT_BYTES)
    return PromptWish(
        text=text,
        long_prompt=long_prompt,
        clip_skip=found.integer(f"{field}.clip_skip", message.clip_skip, 0, MAX_CLIP_SKIP),
        min_windows=max(
            1, found.integer(f"{field}.min_windows", message.min_windows, 0, MAX_WINDOWS)
        ),
        field=f"{field}.text",
    )


def _preprocessing(found: Violations, message: pb.ImagePreprocessing, field: str) -> Preprocessing:
    width = found.integer(f"{field}.resized_width", message.resized_width, 1, MAX_SIDE)
    height = found.integer(f"{field}.resized_height", message.resized_height, 1, MAX_SIDE)
    if width * height > MAX_PIXELS:
        found.add(field, f"{width} x {height} exceed the limit of {MAX_PIXELS} pixels")
    left, top = message.crop_left, message.crop_top
    crop_width = _multiple(found, f"{field}.crop_width", message.crop_width)
    crop_height = _multiple(found, f"{field}.crop_height", message.crop_height)
    is_inside = (
        left >= 0 and top >= 0 and left + crop_width <= width and top + crop_height <= height
    )
    if not is_inside:
        crop = f"{crop_width} x {crop_height} at {left}, {top}"
        found.add(f"{field}.crop", f"{crop} is not inside {width} x {height}")
    resample = message.resample or "lanczos"
    found.name(f"{field}.resample", resample, RESAMPLES)
    background = message.background if message.HasField("background") else WHITE
    found.integer(f"{field}.background", background, 0, WHITE)
    frame = found.integer(f"{field}.frame", message.frame, 0, MAX_FRAME)
    return Preprocessing(
        resized=(width, height),
        crop=(left, top, crop_width, crop_height),
        is_flipped=message.is_flipped,
        resample=resample,  # type: ignore[arg-type] # one of RESAMPLES
        orientation="ignore" if message.ignore_orientation else "exif",
        colour="ignore" if message.ignore_colour_profile else "srgb",
        background=(background >> 16 & 0xFF, background >> 8 & 0xFF, background & 0xFF),
        frame=frame,
    )


def _multiple(found: Violations, field: str, value: int) -> int:
    value = found.integer(field, value, SIZE_MULTIPLE, MAX_SIDE)
    if value % SIZE_MULTIPLE:
        found.add(field, f"{value} is not a multiple of {SIZE_MULTIPLE}")
    return value


def _stage(found: Violations, field: str, value: int) -> Stage | None:
    if value not in STAGES:
        found.add(field, f"{value} is unknown")
    return STAGES.get(value)  # type: ignore[call-overload,no-any-return]


def _mode(found: Violations, value: int) -> CacheMode:
    if value not in MODES:
        found.add("mode", f"{value} is unknown")
    return MODES.get(value, CacheMode.READ_THROUGH)  # type: ignore[call-overload,no-any-return]
