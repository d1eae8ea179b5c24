"""Pixels to latents and back, as diffusers' pipelines do it, and a fast look at latents."""

import math
import threading
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from diptych.errors import CheckpointInvalid
from diptych.models.assembly import assemble, require_class
from diptych.models.parts import Part

__all__ = ["Autoencoder", "load_autoencoder", "pixels_from_images"]

_FIT_SIZE = 128
_FIT_PICTURES = 6
_FIT_SEED = 7


class Autoencoder:
    """A frozen AutoencoderKL. Latents are scaled: the space that UNets work in.

    Every call only reads the weights, so threads may share it; the precision is chosen once,
    at load, and never changed around a call.
    """

    def __init__(self, module: AutoencoderKL, *, fingerprint: str) -> None:
        self.module = module
        self.fingerprint = fingerprint
        parameter = next(module.parameters())
        self.dtype: torch.dtype = parameter.dtype
        self.device: torch.device = parameter.device
        self.latent_channels: int = module.config.latent_channels
        self.scaling_factor: float = module.config.scaling_factor
        self.pixels_per_latent: int = 2 ** (len(module.config.block_out_channels) - 1)
        self.latents_mean = _statistics(module.config.latents_mean)
        self.latents_std = _statistics(module.config.latents_std)
        self._projection: Tensor | None = None
        self._projection_lock = threading.Lock()

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return pictures [N, H, W, 3] of ``latents`` [N, 4, h, w], rounded as diffusers does."""
        rounded = (self.decode_pixels(latents) * 255).round().to(torch.uint8)
        images: NDArray[np.uint8] = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return images

    @torch.inference_mode()
    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Return pixels [N, 3, H, W] float32 in [0, 1] of ``latents`` [N, 4, h, w]."""
        unscaled = latents.to(self.device, torch.float32) / self.scaling_factor
        if self.latents_mean is not None and self.latents_std is not None:
            unscaled = latents.to(self.device, torch.float32) * self._per_channel(self.latents_std)
            unscaled = unscaled / self.scaling_factor + self._per_channel(self.latents_mean)
        pixels: Tensor = self.module.decode(unscaled.to(self.dtype), return_dict=False)[0]
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def encode(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Return latents [N, 4, h, w] float32: a draw from the posterior of each picture.

        Pictures are encoded one at a time, as diffusers does with a list of generators.

        Args:
            pixels: [N, 3, H, W] in [-1, 1].
            noise: The draw, standard normal [N, 4, h, w]; the first that an image's generator
                gives, so that the latents equal diffusers' for the same seed.
        """
        posteriors = [self.posterior(row[None]) for row in pixels]
        mean = torch.cat([mean for mean, _ in posteriors])
        std = torch.cat([std for _, std in posteriors])
        return self.draw(mean, std, noise)

    @torch.inference_mode()
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [N, 4, h, w] float32, unscaled, of each picture.

        On a CPU a picture's do not depend on its neighbours: there each is encoded alone, which
        takes no longer. Elsewhere they differ by rounding.

        Args:
            pixels: [N, 3, H, W] in [-1, 1]; H and W multiples of ``pixels_per_latent``.
        """
        batches = pixels[:, None] if self.device.type == "cpu" else (pixels,)
        found = [self.module.encode(b.to(self.device, self.dtype)).latent_dist for b in batches]
        mean = torch.cat([posterior.mean for posterior in found])
        std = torch.cat([posterior.std for posterior in found])
        return mean.float(), std.float()

    def draw(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Return scaled latents [N, 4, h, w]: the draw ``noise``, standard normal, of a posterior.

        On the autoencoder's device, in the dtype of ``mean``.
        """
        mean, std = mean.to(self.device), std.to(self.device, mean.dtype)
        return self._scale(mean + std * noise.to(self.device, mean.dtype))

    def preview(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return small pictures [N, h, w, 3] of ``latents`` [N, 4, h, w], without decoding."""
        projection = self.preview_projection()
        flat = latents.to(self.device, torch.float32).permute(0, 2, 3, 1)
        pixels = flat @ projection[:-1] + projection[-1]
        images: NDArray[np.uint8] = (
            (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
        )
        return images

    def preview_projection(self) -> Tensor:
        """Return the map [5, 3] float32 from latents and 1 to RGB in [-1, 1].

        The least squares solution between the latents of synthetic pictures and the pictures
        shrunk to latent size; fitted at the first call, from this autoencoder's own encoder.
        """
        with self._projection_lock:
            if self._projection is None:
                self._projection = self._fit_projection()
            return self._projection

    @torch.inference_mode()
    def _fit_projection(self) -> Tensor:
        pixels = _synthetic_pictures().to(self.device)
        latents = torch.cat([self._scale(self.posterior(row[None])[0]) for row in pixels])
        shrunk = torch.nn.functional.avg_pool2d(pixels, self.pixels_per_latent)
        columns = latents.permute(0, 2, 3, 1).flatten(0, 2).double().cpu()
        design = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], dim=1)
        target = shrunk.permute(0, 2, 3, 1).flatten(0, 2).double().cpu()
        solution = torch.linalg.lstsq(design, target, driver="gelsd").solution
        projection: Tensor = solution.float().to(self.device)
        return projection

    def _scale(self, latents: Tensor) -> Tensor:
        if self.latents_mean is None or self.latents_std is None:
            return self.scaling_factor * latents
        centred = latents - self._per_channel(self.latents_mean)
        return centred * self.scaling_factor / self._per_channel(self.latents_std)

    def _per_channel(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)


def load_autoencoder(
    part: Part, *, device: torch.device, dtype: torch.dtype, fingerprint: str
) -> Autoencoder:
    """Return the autoencoder that ``part`` describes, in float32 where half would overflow.

    An SDXL VAE with ``force_upcast`` overflows in float16; asked for that, it is loaded in
    float32 for good instead of being converted around every call.

    Raises:
        CheckpointInvalid: the part is not an AutoencoderKL or does not fit its weights.
    """
    require_class(part, "_class_name", "AutoencoderKL")
    _check_scaling(part)
    if dtype == torch.float16 and part.config.get("force_upcast", True):
        dtype = torch.float32
    module = assemble(part, _build, device=device, dtype=dtype)
    return Autoencoder(module, fingerprint=fingerprint)


def pixels_from_images(images: NDArray[np.uint8]) -> Tensor:
    """Return pixels [N, 3, H, W] float32 in [-1, 1] of pictures [N, H, W, 3]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def _build(config: dict[str, object]) -> AutoencoderKL:
    module: AutoencoderKL = AutoencoderKL.from_config(config)
    return module


def _check_scaling(part: Part) -> None:
    factor = part.config.get("scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise CheckpointInvalid(part.source, f"vae has scaling_factor {factor!r}")
    for key in ("latents_mean", "latents_std"):
        values = part.config.get(key)
        if values is not None and not (
            isinstance(values, list)
            and len(values) == part.config.get("latent_channels")
            and all(isinstance(value, int | float) for value in values)
        ):
            raise CheckpointInvalid(part.source, f"vae has {key} {values!r}")


def _statistics(values: object) -> tuple[float, ...] | None:
    return tuple(float(value) for value in values) if isinstance(values, list | tuple) else None


def _synthetic_pictures() -> Tensor:
    """Return pictures [N, 3, S, S] in [-1, 1] of smooth colour fields with flat patches on them."""
    generator = torch.Generator().manual_seed(_FIT_SEED)
    coarse = torch.rand(_FIT_PICTURES, 3, 4, 4, generator=generator) * 2 - 1
    fields = torch.nn.functional.interpolate(coarse, size=_FIT_SIZE, mode="bilinear")
    patches = torch.rand(_FIT_PICTURES, 3, 8, 8, generator=generator) * 2 - 1
    flat = torch.nn.functional.interpolate(patches, size=_FIT_SIZE, mode="nearest")
    shown = torch.rand(_FIT_PICTURES, 1, 8, 8, generator=generator) < 0.4
    mask = torch.nn.functional.interpolate(shown.float(), size=_FIT_SIZE, mode="nearest")
    return fields * (1 - mask) + flat * mask
