"""Encoders that there might be, as the cache tells of them."""

from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.embeddings.key import EncoderIdentity

__all__ = ["identities_of"]


def identities_of(
    prompt: EncoderIdentity, image: EncoderIdentity | None = None
) -> EncoderIdentities:
    """Return the identities of a pair of encoders; the same one for both unless two are given."""
    return EncoderIdentities(
        family="sdxl-base",
        prompt=prompt,
        image=image or prompt,
        window_tokens=77,
        hidden_width=2048,
        pooled_width=1280,
        latents=LatentSpace(channels=4, pixels_per_latent=8, scaling_factor=0.13025),
    )
