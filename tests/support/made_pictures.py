"""Small pictures that tests put where datasets look for them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["picture", "picture_bytes", "write_pictures"]


def picture(seed: int, *, width: int = 96, height: int = 64) -> Image.Image:
    """Return a smooth picture with structure, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


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
        (folder / f"{name}.png").write_bytes(picture_bytes(seed))
        (folder / f"{name}.txt").write_text(caption)
    return folder
