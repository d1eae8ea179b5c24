"""Small pictures that tests put where datasets look for them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["natural_picture", "picture", "picture_bytes", "write_pictures"]


def picture(seed: int, *, width: int = 96, height: int = 64) -> Image.Image:
    """Return a smooth picture with structure, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def natural_picture(seed: int, *, side: int = 512) -> Image.Image:
    """Return a picture whose frequencies fall off as those of photographs do."""
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = 1.0
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    grey = np.fft.ifft2(noise / radius**1.3).real
    grey = (grey - grey.mean()) / grey.std() * 45 + 128
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def picture_bytes(
    seed: int, *, width: int = 96, height: int = 64, suffix: str = ".png", quality: int = 95
) -> bytes:
    """Return a picture's file."""
    stream = io.BytesIO()
    kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(suffix, "PNG")
    picture(seed, width=width, height=height).save(stream, kind, quality=quality)
    return stream.getvalue()


def write_pictures(folder: Path, **captions: str) -> Path:
    """Write pictures ``NAME.png`` and their captions ``NAME.txt`` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, caption) in enumerate(captions.items()):
        for file, data in (("png", picture_bytes(seed)), ("txt", caption.encode())):
            path = folder / f"{name}.{file}"
            # Another process may be reading what is there already.
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
    return folder
