"""Previews by a small decoder: TAESD, the tiny autoencoder of diffusers.

It takes scaled latents as they are and answers in a few milliseconds, at the picture's own size;
what is shown of it is no larger than a preview should be.
"""

from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diptych.errors import CheckpointInvalid
from diptych.models.assembly import assemble, require_class
from diptych.models.checkpoint import SourceConfig, locate_part
from diptych.models.folder import open_part

__all__ = ["PreviewDecoder", "load_preview_decoder"]

_PART: Final = "preview decoder"
_MAX_SIDE: Final = 512


class PreviewDecoder:
    """A frozen AutoencoderTiny; its calls only read the weights."""

    def __init__(self, module: AutoencoderTiny) -> None:
        self._module = module
        parameter = next(module.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device

    @torch.inference_mode()
    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Return pixels [N, 3, H, W] float32 in [0, 1] of scaled ``latents`` [N, C, h, w]."""
        unscaled = latents.to(self._device, torch.float32) / self._module.config.scaling_factor
        pixels: Tensor = self._module.decode(unscaled.to(self._dtype), return_dict=False)[0]
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1)

    def preview(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return pictures [N, H, W, 3] of ``latents`` [N, C, h, w], sides at most 512 pixels."""
        pixels = self.decode_pixels(latents)
        shrink = -(-max(pixels.shape[-2:]) // _MAX_SIDE)
        pixels = avg_pool2d(pixels, shrink) if shrink > 1 else pixels
        rounded = (pixels * 255).round().to(torch.uint8)
        images: NDArray[np.uint8] = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return images


def load_preview_decoder(
    source: str,
    config: SourceConfig,
    *,
    latent_channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> PreviewDecoder:
    """Return the decoder in a folder that holds ``config.json`` and its safetensors.

    Args:
        source: A folder, a Hugging Face id or ``s3://``.
        config: How sources are reached.
        latent_channels: Of the latents it will be given.
        device: Where it runs.
        dtype: Of its weights.

    Raises:
        ModelNotFound: nothing has that name.
        SourceUnavailable: the hub or store does not answer.
        CheckpointInvalid: not an AutoencoderTiny that can be read safely, or one of other latents.
    """
    part = open_part(locate_part(source, config), source, name=_PART)
    require_class(part, "_class_name", "AutoencoderTiny")
    if (found := part.config.get("latent_channels", 4)) != latent_channels:
        problem = f"decodes {found} latent channels, the experts have {latent_channels}"
        raise CheckpointInvalid(source, f"{_PART} {problem}")
    return PreviewDecoder(assemble(part, _build, device=device, dtype=dtype))


def _build(config: dict[str, object]) -> AutoencoderTiny:
    module: AutoencoderTiny = AutoencoderTiny.from_config(config)
    return module
