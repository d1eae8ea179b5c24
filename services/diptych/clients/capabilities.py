"""What a server can do, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types

__all__ = ["Capabilities", "Defaults", "ExpertInfo", "Limits", "read_capabilities"]

EXPERTS: Final[Mapping[int, str]] = {types.EXPERT_BASE: "base", types.EXPERT_REFINER: "refiner"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertInfo:
    """An expert that calls can use."""

    expert: str
    """base or refiner."""
    family: str
    model: str
    """Name of its checkpoint, as the server was given it."""
    prediction_type: str
    default_guidance_scale: float
    remote: bool
    """Another server hosts it, and this one hands latents over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on calls, all inclusive."""

    min_side: int
    max_side: int
    max_pixels: int
    size_multiple: int
    max_num_steps: int
    max_num_images: int
    max_prompt_bytes: int
    max_inline_bytes: int
    """Bytes of latents or of a picture inside a request."""
    max_adapters: int
    """Adapters of a call; 0 where the server takes none."""
    max_adapter_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What fields that a call leaves open become."""

    width: int
    height: int
    num_steps: int
    solver: str
    boundary: float | None
    """None: the server has no refiner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A server's experts, limits, defaults and the names it knows."""

    version: str
    experts: tuple[ExpertInfo, ...]
    limits: Limits
    defaults: Defaults
    solvers: tuple[str, ...]
    spacings: tuple[str, ...]
    sigma_schedules: tuple[str, ...]
    outputs: tuple[str, ...]
    """png, webp, jpeg, latents."""


def read_capabilities(message: pb.GetCapabilitiesResponse) -> Capabilities:
    """Return the values of ``message``, less experts and outputs this version does not know."""
    prefix = "OUTPUT_FORMAT_"
    known = set(types.OutputFormat.values())
    outputs = [types.OutputFormat.Name(one) for one in message.outputs if one in known]
    return Capabilities(
        version=message.version,
        experts=tuple(_expert(one) for one in message.experts if one.expert in EXPERTS),
        limits=_limits(message.limits),
        defaults=_defaults(message.defaults),
        solvers=tuple(message.solvers),
        spacings=tuple(message.spacings),
        sigma_schedules=tuple(message.sigma_schedules),
        outputs=tuple(name.removeprefix(prefix).lower() for name in outputs),
    )


def _expert(message: pb.ExpertInfo) -> ExpertInfo:
    return ExpertInfo(
        expert=EXPERTS[message.expert],
        family=message.family,
        model=message.model,
        prediction_type=message.prediction_type,
        default_guidance_scale=message.default_guidance_scale,
        remote=message.remote,
    )


def _limits(message: pb.Limits) -> Limits:
    return Limits(
        min_side=message.min_side,
        max_side=message.max_side,
        max_pixels=message.max_pixels,
        size_multiple=message.size_multiple,
        max_num_steps=message.max_num_steps,
        max_num_images=message.max_num_images,
        max_prompt_bytes=message.max_prompt_bytes,
        max_inline_bytes=message.max_inline_bytes,
        max_adapters=message.max_adapters,
        max_adapter_rank=message.max_adapter_rank,
    )


def _defaults(message: pb.Defaults) -> Defaults:
    return Defaults(
        width=message.width,
        height=message.height,
        num_steps=message.num_steps,
        solver=message.solver,
        boundary=message.boundary if message.HasField("boundary") else None,
    )
