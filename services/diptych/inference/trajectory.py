"""What the engine is asked for and what it answers, as plain values without tensors.

A request becomes one trajectory per image: an image on its way from noise to picture. The
events below are all a listener ever sees of it.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.errors import DiptychError
from diptych.rpc.auth import DEFAULT_TENANT

__all__ = [
    "AdapterState",
    "AdapterUse",
    "AdapterWaited",
    "Completed",
    "Event",
    "Expert",
    "Failed",
    "ImageInput",
    "ImageReady",
    "ImageRequest",
    "LatentsInput",
    "Listener",
    "LongPrompt",
    "OutputFormat",
    "Preview",
    "Queued",
    "SolverHistory",
    "StageSettings",
    "Started",
    "Stepped",
    "Timings",
]


class Expert(enum.StrEnum):
    """A UNet that owns an interval of timesteps."""

    BASE = "base"
    REFINER = "refiner"


class OutputFormat(enum.StrEnum):
    """What a finished image is delivered as."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"
    LATENTS = "latents"


class SolverHistory(enum.StrEnum):
    """What a multistep solver remembers across the boundary."""

    RESTART = "restart"
    CARRY = "carry"


class LongPrompt(enum.StrEnum):
    """What to do with a prompt longer than the encoders' window."""

    ERROR = "error"
    TRUNCATE = "truncate"
    CHUNK = "chunk"


class AdapterState(enum.StrEnum):
    """How far an adapter is on its way to the device, for one request that waits for it."""

    QUEUED = "queued"
    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterUse:
    """One adapter of a request; its name has been resolved, so what it means cannot change."""

    digest: str
    """``sha256:`` and 64 hexadecimal digits."""
    name: str
    """What the caller called it, for messages."""
    scale: float = 1.0
    parts: tuple[tuple[str, float], ...] = ()
    """Factors on ``scale`` by part, in order of their names: ``base``, ``refiner``,
    ``text_encoder``, ``text_encoder_2``, ``unet``, ``unet.down``, ``unet.up.block_1``,
    ``unet.up.block_1.0``; the most specific of those under ``unet`` holds."""
    tenant: str = "default"
    """Whose adapter it is."""
    dora: bool = False
    """Whether it holds magnitudes, so that its update is not proportional to its scale."""
    force: bool = False
    """Use it although it was made for another model, where its shapes fit."""
    experts: frozenset[Expert] = frozenset(Expert)
    """Experts that it acts on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """How one expert is conditioned and guided."""

    prompt: str
    negative_prompt: str | None = None
    """None is diffusers' default: zeroed embeddings where the checkpoint asks for them."""
    guidance_scale: float = 5.0
    """1.0 or below turns classifier-free guidance off."""
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Fractions of the schedule, noise first, between which guidance acts."""
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsInput:
    """Latents [N, 4, h, w] float32, as ``Generate`` returned them at the request's boundary."""

    latents: NDArray[np.float32]
    family: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """An encoded picture to refine; ``strength`` in (0, 1] is the share of steps redone."""

    data: bytes
    strength: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One call: ``num_images`` images that share everything but their seeds.

    Which experts run follows from what is set: ``base`` and ``refiner`` with ``boundary``;
    ``base`` alone, over the whole schedule or, with ``boundary``, up to it; ``refiner`` alone,
    from ``source``.
    """

    request_id: str
    width: int
    height: int
    seed: int
    """Image ``i`` draws all its noise from ``seed + i``."""
    num_steps: int = 40
    num_images: int = 1
    boundary: float | None = None
    """Fraction of the schedule the base expert does, in (0, 1)."""
    base: StageSettings | None = None
    refiner: StageSettings | None = None
    source: LatentsInput | ImageInput | None = None
    solver: str = "euler"
    spacing: str | None = None
    """leading, linspace or trailing; None is the checkpoint's own."""
    sigma_schedule: str | None = None
    """karras, exponential or beta; None is the checkpoint's own."""
    eta: float | None = None
    """Stochasticity of DDIM and TCD; None is the solver's default."""
    history: SolverHistory = SolverHistory.RESTART
    long_prompt: LongPrompt = LongPrompt.ERROR
    original_size: tuple[int, int] | None = None
    """(height, width) for the time ids; None is the output's size."""
    crop_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    output: OutputFormat = OutputFormat.PNG
    quality: int = 90
    """For WebP and JPEG, 1..100."""
    preview_every: int = 0
    """Steps between previews; 0 sends none."""
    deadline: float | None = None
    """Instant on the engine's clock after which the answer is worthless."""
    adapters: tuple[AdapterUse, ...] = ()
    tenant: str = DEFAULT_TENANT
    """Whose request it is; one tenant's prompts are not remembered for another."""
    """Their updates add up."""
    skip_draws: int = 0
    """Noises, the first latents' included, drawn from each seed before these were handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a request's time went, seconds, and how many texts that took."""

    queue_s: float = 0.0
    encode_s: float = 0.0
    base_s: float = 0.0
    refiner_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0
    num_texts_encoded: int = 0
    num_texts_cached: int = 0
    """Texts whose embeddings the encoders were spared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The request is admitted; ``position`` others are before it."""

    position: int
    predicted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWaited:
    """An adapter that the request waits for has reached ``state``; between Queued and Started."""

    name: str
    digest: str
    state: AdapterState


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first image's first step begins with the next tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """Image ``image_index`` finished step ``step`` of ``num_steps`` (counted from 1)."""

    image_index: int
    step: int
    num_steps: int
    expert: Expert


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A small picture of the denoised estimate after ``step``, JPEG bytes."""

    image_index: int
    step: int
    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReady:
    """One finished image: encoded ``data``, or ``latents`` [4, h, w] float32."""

    image_index: int
    seed: int
    width: int
    height: int
    data: bytes = b""
    latents: NDArray[np.float32] | None = None
    draws: int = 0
    """Noises, the first latents' included, drawn from this seed; what a later ``Refine`` skips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """Every image was delivered."""

    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request ended without its images; always the last event."""

    error: DiptychError


Event = Queued | AdapterWaited | Started | Stepped | Preview | ImageReady | Completed | Failed
"""Queued, AdapterWaited, Started, then Stepped, Preview, ImageReady; last Completed or Failed."""

Listener = Callable[[Event], None]
"""Called from the engine's threads; must return at once and never raise."""
