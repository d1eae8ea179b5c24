"""Messages to requests: a pure conversion that finds everything wrong with a message at once."""

import dataclasses
import hashlib
import uuid
from typing import Final, Literal

from diptych.diffusion.solvers.registry import SOLVERS, traits_of
from diptych.errors import ExpertMissing
from diptych.inference.adapter_wishes import adapter_wishes
from diptych.inference.hosted import Hosted
from diptych.inference.limits import Limits
from diptych.inference.orders import AdapterWish
from diptych.inference.stage_wire import stage_settings
from diptych.inference.trajectory import (
    Expert,
    ImageInput,
    ImageRequest,
    LatentsInput,
    LongPrompt,
    OutputFormat,
    SolverHistory,
    StageSettings,
)
from diptych.inference.uploads import check_sha256, check_size, checked_latents, checked_picture
from diptych.rpc.violations import Violations, shown
from diptych.v1 import inference_pb2, types_pb2

__all__ = ["generate_request", "refine_request", "request_id_of", "wishes_of"]

OUTPUTS: Final = {
    types_pb2.OUTPUT_FORMAT_UNSPECIFIED: OutputFormat.PNG,
    types_pb2.OUTPUT_FORMAT_PNG: OutputFormat.PNG,
    types_pb2.OUTPUT_FORMAT_WEBP: OutputFormat.WEBP,
    types_pb2.OUTPUT_FORMAT_JPEG: OutputFormat.JPEG,
    types_pb2.OUTPUT_FORMAT_LATENTS: OutputFormat.LATENTS,
}
HISTORIES: Final = {
    types_pb2.SOLVER_HISTORY_UNSPECIFIED: SolverHistory.RESTART,
    types_pb2.SOLVER_HISTORY_RESTART: SolverHistory.RESTART,
    types_pb2.SOLVER_HISTORY_CARRY: SolverHistory.CARRY,
}
LONG_PROMPTS: Final = {
    types_pb2.LONG_PROMPT_UNSPECIFIED: LongPrompt.ERROR,
    types_pb2.LONG_PROMPT_ERROR: LongPrompt.ERROR,
    types_pb2.LONG_PROMPT_TRUNCATE: LongPrompt.TRUNCATE,
    types_pb2.LONG_PROMPT_CHUNK: LongPrompt.CHUNK,
}

ETA_SOLVERS: Final = tuple(n for n in SOLVERS if traits_of(n).default_eta is not None)
MAX_CLAIMED_SIDE: Final = 1 << 16
"""Pixels that micro-conditioning may speak of."""
MAX_SEED: Final = (1 << 63) - 1
MAX_DRAWS_PER_STEP: Final = 2
DEFAULT_STRENGTH: Final = 0.3
DEFAULT_QUALITY: Final = 90

Painting = inference_pb2.GenerateRequest | inference_pb2.RefineRequest


def request_id_of(message: Painting) -> str:
    """Return the request's id, a new one where it names none.

    Raises:
        InvalidRequest: It is not a UUID.
    """
    if not message.request_id:
        return str(uuid.uuid4())
    found = Violations()
    try:
        return str(uuid.UUID(message.request_id))
    except ValueError:
        found.add("request_id", f"{shown(message.request_id)} is not a UUID")
    found.raise_if_any()
    raise AssertionError("a violation was just added")


def wishes_of(message: Painting, hosted: Hosted) -> tuple[AdapterWish, ...]:
    """Return the adapters that ``message`` names, whose names are still to be looked up.

    Raises:
        InvalidRequest: One or more of them are bad.
    """
    found = Violations()
    wishes = adapter_wishes(message.adapters, hosted.limits, found)
    found.raise_if_any()
    return wishes


def generate_request(
    message: inference_pb2.GenerateRequest, hosted: Hosted, *, request_id: str
) -> ImageRequest:
    """Return what ``message`` asks for, defaults filled in from what is hosted.

    Its adapters are checked and left out: see ``wishes_of``.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
        ExpertMissing: An expert that was asked for is not here.
    """
    found = Violations()
    base = hosted.need_base()
    has_base = message.HasField("base")
    if not has_base:
        found.add("base", "is required")
    stage = stage_settings(
        message.base, base, "base", hosted.limits, found if has_base else Violations()
    )
    refiner = _generate_refiner(message, hosted, stage, found)
    width = message.width if message.HasField("width") else hosted.width
    height = message.height if message.HasField("height") else hosted.height
    check_size(width, height, hosted.limits, found, fields=("width", "height"))
    num_images = _num_images(message, hosted.limits, found)
    request = ImageRequest(
        request_id=request_id,
        width=width,
        height=height,
        seed=_seed(message, num_images, request_id, found),
        num_steps=_num_steps(message, hosted, None, found),
        num_images=num_images,
        boundary=_generate_boundary(message, hosted, refiner is not None, found),
        base=stage,
        refiner=refiner,
        history=_history(message, hosted, refiner is not None, found),
    )
    request = _with_common(request, message, hosted, found)
    found.raise_if_any()
    return request


def refine_request(
    message: inference_pb2.RefineRequest, hosted: Hosted, *, request_id: str
) -> ImageRequest:
    """Return what ``message`` asks for; decodes a picture, so call it off the event loop.

    Its adapters are checked and left out: see ``wishes_of``.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
        ExpertMissing: There is no refiner here.
    """
    found = Violations()
    expert = hosted.need_refiner(local=True)
    has_refiner = message.HasField("refiner")
    if not has_refiner:
        found.add("refiner", "is required")
    stage = stage_settings(
        message.refiner, expert, "refiner", hosted.limits, found if has_refiner else Violations()
    )
    request = ImageRequest(
        request_id=request_id,
        width=hosted.width,
        height=hosted.height,
        seed=0,
        refiner=stage,
    )
    if message.HasField("latents"):
        request = _with_latents(request, message, hosted, found)
    elif message.HasField("image"):
        request = _with_picture(request, message, hosted, found)
    else:
        found.add("source", "is required: set latents or image")
    request = dataclasses.replace(
        request, seed=_seed(message, request.num_images, request_id, found)
    )
    request = _with_common(request, message, hosted, found)
    found.raise_if_any()
    return request


def _generate_refiner(
    message: inference_pb2.GenerateRequest, hosted: Hosted, base: StageSettings, found: Violations
) -> StageSettings | None:
    """Return the refiner's stage, None where the base paints alone."""
    has_settings = message.HasField("refiner")
    if message.base_only:
        if has_settings:
            found.add("refiner", "must not be set together with base_only")
        return None
    asked = has_settings or message.HasField("boundary")
    if hosted.refiner is None:
        if asked:
            raise ExpertMissing(Expert.REFINER)
        return None
    if has_settings:
        return stage_settings(message.refiner, hosted.refiner, "refiner", hosted.limits, found)
    explicit = message.base.HasField("guidance_scale")
    scale = base.guidance_scale if explicit else hosted.refiner.guidance_scale
    return dataclasses.replace(base, guidance_scale=scale)


def _generate_boundary(
    message: inference_pb2.GenerateRequest, hosted: Hosted, refined: bool, found: Violations
) -> float | None:
    if message.HasField("boundary"):
        return found.inner_fraction("boundary", message.boundary)
    return hosted.boundary if refined else None


def _history(
    message: inference_pb2.GenerateRequest, hosted: Hosted, refined: bool, found: Violations
) -> SolverHistory:
    if message.history not in HISTORIES:
        found.add("history", f"{message.history} is not a value of SolverHistory")
        return SolverHistory.RESTART
    history = HISTORIES[message.history]
    remote = hosted.refiner is not None and hosted.refiner.remote
    if history is SolverHistory.CARRY and refined and remote:
        found.add(
            "history",
            "CARRY needs both experts on one server, and this server's refiner is at a peer",
        )
    return history


def _with_latents(
    request: ImageRequest, message: inference_pb2.RefineRequest, hosted: Hosted, found: Violations
) -> ImageRequest:
    """Return ``request`` starting from the latents in ``message``."""
    header, field = message.latents.header, "latents.header"
    expert = hosted.need_refiner(local=True)
    if header.family and header.family not in hosted.refinable_families:
        found.add(
            f"{field}.family",
            f"latents of {shown(header.family)} do not fit this refiner, which takes those of "
            + ", ".join(sorted(hosted.refinable_families)),
        )
    latents = checked_latents(
        header.shape,
        message.latents.data,
        num_channels=expert.latent_channels,
        limits=hosted.limits,
        found=found,
    )
    check_sha256(message.latents.data, message.latents.sha256, found, field="latents.sha256")
    num_images, _, height, width = latents.shape
    if message.HasField("num_images") and message.num_images != num_images:
        found.add("num_images", f"{message.num_images}, while the latents hold {num_images}")
    boundary = None
    if message.HasField("boundary"):
        boundary = found.inner_fraction("boundary", message.boundary)
    elif header.HasField("boundary"):
        boundary = found.inner_fraction(f"{field}.boundary", header.boundary)
    else:
        found.add("boundary", "is required with latents whose header does not state it")
    fallback = header.num_steps if header.HasField("num_steps") else None
    max_draws = MAX_DRAWS_PER_STEP * hosted.limits.max_steps
    return dataclasses.replace(
        request,
        width=8 * width,
        height=8 * height,
        num_images=num_images,
        boundary=boundary,
        num_steps=_num_steps(message, hosted, fallback, found),
        source=LatentsInput(latents=latents, family=header.family or None),
        skip_draws=found.integer(f"{field}.num_draws", header.num_draws, 0, max_draws),
    )


def _with_picture(
    request: ImageRequest, message: inference_pb2.RefineRequest, hosted: Hosted, found: Violations
) -> ImageRequest:
    """Return ``request`` starting from the picture in ``message``."""
    if message.HasField("boundary"):
        found.add("boundary", "goes with latents only; image.strength says where a picture starts")
    strength = DEFAULT_STRENGTH
    if message.image.HasField("strength"):
        strength = message.image.strength
        if not 0.0 < strength <= 1.0:
            found.add("image.strength", f"{strength} is not in (0, 1]")
    data = message.image.data
    width, height = checked_picture(data, hosted.limits, found, field="image.data")
    return dataclasses.replace(
        request,
        width=width,
        height=height,
        num_images=_num_images(message, hosted.limits, found),
        num_steps=_num_steps(message, hosted, None, found),
        source=ImageInput(data=data, strength=strength),
    )


def _with_common(
    request: ImageRequest, message: Painting, hosted: Hosted, found: Violations
) -> ImageRequest:
    """Return ``request`` with the fields that both calls have."""
    adapter_wishes(message.adapters, hosted.limits, found)
    solver = message.solver or hosted.solver
    eta = None
    if message.HasField("eta"):
        eta = found.number("eta", message.eta, 0.0, 1.0)
        if solver not in ETA_SOLVERS:
            found.add("eta", f"{shown(solver)} takes none; {' and '.join(ETA_SOLVERS)} do")
    quality = message.quality if message.HasField("quality") else DEFAULT_QUALITY
    if message.output not in OUTPUTS:
        found.add("output", f"{message.output} is not a value of OutputFormat")
    if message.long_prompt not in LONG_PROMPTS:
        found.add("long_prompt", f"{message.long_prompt} is not a value of LongPrompt")
    return dataclasses.replace(
        request,
        solver=found.name("solver", solver, hosted.solvers),
        spacing=_optional_name("spacing", message.spacing, hosted.spacings, found),
        sigma_schedule=_optional_name(
            "sigma_schedule", message.sigma_schedule, hosted.sigma_schedules, found
        ),
        eta=eta,
        long_prompt=LONG_PROMPTS.get(message.long_prompt, LongPrompt.ERROR),
        original_size=_claimed_size(message, "original_size", found),
        crop_top_left=_crop(message, found),
        target_size=_claimed_size(message, "target_size", found),
        output=OUTPUTS.get(message.output, OutputFormat.PNG),
        quality=found.integer("quality", quality, 1, 100),
        preview_every=found.integer("preview_every", message.preview_every, 0, request.num_steps),
    )


def _optional_name(field: str, value: str, names: tuple[str, ...], found: Violations) -> str | None:
    return found.name(field, value, names) if value else None


def _num_images(message: Painting, limits: Limits, found: Violations) -> int:
    value = message.num_images if message.HasField("num_images") else 1
    return found.integer("num_images", value, 1, limits.max_images)


def _num_steps(message: Painting, hosted: Hosted, fallback: int | None, found: Violations) -> int:
    """Return the steps of the whole schedule; ``fallback`` is what the latents' header says."""
    if message.HasField("num_steps"):
        return found.integer("num_steps", message.num_steps, 1, hosted.limits.max_steps)
    if fallback is not None:
        field = "latents.header.num_steps"
        return found.integer(field, fallback, 1, hosted.limits.max_steps)
    return hosted.num_steps


def _seed(message: Painting, num_images: int, request_id: str, found: Violations) -> int:
    """Return the seed; one that is absent follows from the id, so a retry paints the same."""
    if not message.HasField("seed"):
        return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4], "big")
    return found.integer("seed", message.seed, 0, MAX_SEED - num_images)


def _claimed_size(
    message: Painting, field: Literal["original_size", "target_size"], found: Violations
) -> tuple[int, int] | None:
    """Return (height, width) of a size the picture claims, None where it claims none."""
    if not message.HasField(field):
        return None
    size: types_pb2.Size = getattr(message, field)
    return (
        found.integer(f"{field}.height", size.height, 1, MAX_CLAIMED_SIDE),
        found.integer(f"{field}.width", size.width, 1, MAX_CLAIMED_SIDE),
    )


def _crop(message: Painting, found: Violations) -> tuple[int, int]:
    """Return (top, left) of the crop the picture claims."""
    crop = message.crop_top_left
    return (
        found.integer("crop_top_left.top", crop.top, 0, MAX_CLAIMED_SIDE),
        found.integer("crop_top_left.left", crop.left, 0, MAX_CLAIMED_SIDE),
    )
