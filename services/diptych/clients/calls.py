"""What a client asks for, as plain values.

None always means the server's default, which ``get_capabilities`` tells. The proto states each
field's limits; the server checks them, all at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from diptych.clients.events import Picture
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["AdapterChoice", "GenerateCall", "ImageSource", "Latents", "RefineCall", "Stage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How one expert is conditioned and guided."""

    prompt: str
    negative_prompt: str | None = None
    """None is not the empty text: it gives zeroed embeddings where the checkpoint asks for them."""
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    """Fractions of the schedule, noise first, between which guidance acts."""
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChoice:
    """An adapter to paint with, and how strongly it acts."""

    adapter: str
    """``name``, ``name:tag``, or ``sha256:`` and 64 hexadecimal digits."""
    scale: float | None = None
    """Factor on its whole update; None is 1."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Factors on ``scale`` by part: ``base``, ``refiner``, ``text_encoder``, ``text_encoder_2``,
    ``unet``, ``unet.down``, ``unet.up.block_1``, ``unet.up.block_1.0``."""
    force: bool = False
    """Use it although it was made for another model, where its shapes fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Latents [N, 4, h, w] float32 of one request, to be refined."""

    values: NDArray[np.float32]
    family: str = ""
    """Family whose VAE they belong to; empty is not checked."""
    boundary: float | None = None
    """Fraction of the schedule already done."""
    num_steps: int | None = None
    """Steps of the whole schedule they were made with."""
    num_draws: int = 0
    """Noises drawn from each image's seed so far, the initial latents' included."""

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> Self:
        """Stack the latents of pictures of one request, in order of their index.

        Raises:
            InvalidRequest: a picture has no latents, or they are not of one request.
        """
        ordered = sorted(pictures, key=lambda picture: picture.image_index)
        values = [picture.latents for picture in ordered if picture.latents is not None]
        facts = {(p.family, p.boundary, p.num_steps, p.num_draws) for p in ordered}
        shapes = {value.shape for value in values}
        if not ordered or len(values) < len(ordered) or len(facts) > 1 or len(shapes) > 1:
            problem = "expected pictures of one request with output latents"
            raise InvalidRequest([FieldViolation(field="latents", description=problem)])
        family, boundary, num_steps, num_draws = facts.pop()
        return cls(
            values=np.stack(values),
            family=family,
            boundary=boundary,
            num_steps=num_steps,
            num_draws=num_draws,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """An encoded picture to refine; ``strength`` in (0, 1] is the share of steps done anew."""

    data: bytes
    strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """A request to paint; ``base`` and the prompt in it are all that must be said."""

    base: Stage
    refiner: Stage | None = None
    """None: like the base."""
    base_only: bool = False
    """Run no refiner: up to ``boundary`` where that is set, else over the whole schedule."""
    width: int | None = None
    height: int | None = None
    history: str | None = None
    """restart or carry: what a multistep solver remembers across the boundary."""
    num_images: int | None = None
    seed: int | None = None
    """Image i draws from ``seed + i``; None: the server derives one from ``request_id``."""
    num_steps: int | None = None
    boundary: float | None = None
    solver: str | None = None
    spacing: str | None = None
    sigma_schedule: str | None = None
    eta: float | None = None
    long_prompt: str | None = None
    """error, truncate or chunk."""
    original_size: tuple[int, int] | None = None
    """(height, width), as in diffusers."""
    crop_top_left: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    """(height, width), as in diffusers."""
    output: str | None = None
    """png, webp, jpeg or latents."""
    quality: int | None = None
    preview_every: int | None = None
    adapters: Sequence[AdapterChoice] = ()
    """None of them twice; their updates add up."""
    request_id: str = ""
    """A UUID; the client draws one for a call that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineCall:
    """A request to run the refiner alone, on latents or on a picture."""

    refiner: Stage
    source: Latents | ImageSource
    num_images: int | None = None
    seed: int | None = None
    """Image i draws from ``seed + i``; None: the server derives one from ``request_id``."""
    num_steps: int | None = None
    boundary: float | None = None
    solver: str | None = None
    spacing: str | None = None
    sigma_schedule: str | None = None
    eta: float | None = None
    long_prompt: str | None = None
    """error, truncate or chunk."""
    original_size: tuple[int, int] | None = None
    """(height, width), as in diffusers."""
    crop_top_left: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    """(height, width), as in diffusers."""
    output: str | None = None
    """png, webp, jpeg or latents."""
    quality: int | None = None
    preview_every: int | None = None
    adapters: Sequence[AdapterChoice] = ()
    """None of them twice; their updates add up."""
    request_id: str = ""
    """A UUID; the client draws one for a call that has none."""
