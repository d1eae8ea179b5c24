"""How much of a picture the nano autoencoder keeps."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from diptych.nano.scenes import Scene, render

__all__ = ["reconstruction_psnr"]

_BATCH = 16
_JITTER_SEED = 5


def reconstruction_psnr(folder: Path, scenes: Sequence[Scene]) -> float:
    """Return the mean PSNR in dB of renders of ``scenes`` after the autoencoder, 8 bits a channel.

    Args:
        folder: An expert's folder in diffusers layout, with ``vae/`` in it.
        scenes: What is drawn, with jitter as in training; held-out ones make it honest.
    """
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval()
    rng = random.Random(_JITTER_SEED)  # noqa: S311 - where objects stand, not a secret
    pictures = np.stack([np.asarray(render(scene, rng)) for scene in scenes])
    values = [
        _psnr(vae, pictures[start : start + _BATCH]) for start in range(0, len(pictures), _BATCH)
    ]
    return float(np.concatenate(values).mean())


@torch.inference_mode()
def _psnr(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Return the PSNR of each picture [N, H, W, 3] uint8, in dB."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    seen = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
    error = (seen - (pixels + 1) * 127.5).square().mean(dim=(1, 2, 3)).clamp(min=1e-6)
    return (10 * torch.log10(255**2 / error)).numpy()
