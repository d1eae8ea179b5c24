"""How much one request may ask for; every limit is named in the error that enforces it."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one request, all inclusive."""

    min_side: int = 64
    """Pixels of the shorter side."""
    max_side: int = 2048
    """Pixels of the longer side."""
    max_pixels: int = 2048 * 2048
    """Pixels of one output image."""
    size_multiple: int = 8
    """Width and height are multiples of this: pixels per latent."""
    max_steps: int = 200
    max_images: int = 16
    max_prompt_bytes: int = 32 * 1024
    """UTF-8 bytes of one prompt."""
    max_guidance_scale: float = 100.0
    max_inline_bytes: int = 15 * 256 * 1024
    """Bytes of an uploaded picture or of uploaded latents; a message holds 4 MiB in all."""
    max_adapters: int = 8
    """Adapters of one request."""
    max_adapter_rank: int = 128
    """Rank of one target of an adapter."""

    def __post_init__(self) -> None:
        """Check what the settings cannot: that the bounds leave room."""
        assert self.min_side % self.size_multiple == 0
        assert self.min_side <= self.max_side
