"""Small pictures for tests."""

import io

import numpy as np
from PIL import Image

__all__ = ["png"]


def png(width: int, height: int, *, seed: int = 0) -> bytes:
    """Return a PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
