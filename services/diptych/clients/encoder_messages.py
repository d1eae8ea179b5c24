"""Messages about encoders to values, checked: keys that callers compute must be the server's."""

from typing import Final, get_args

from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.embeddings.key import EncoderIdentity, StoredDtype
from diptych.errors import DigestMismatch, ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = ["read_encoders"]

STAGES: Final = {pb.ENCODER_STAGE_BASE: "base", pb.ENCODER_STAGE_REFINER: "refiner"}


def read_encoders(message: pb.GetEncodersResponse) -> dict[str, EncoderIdentities]:
    """Return the encoders of each stage that ``message`` tells of.

    Raises:
        DigestMismatch: The server computes keys otherwise than this version does.
        ResponseCorrupt: It names numbers that there are not.
    """
    return {STAGES[one.stage]: _encoders(one) for one in message.encoders if one.stage in STAGES}


def _encoders(message: pb.HostedEncoders) -> EncoderIdentities:
    latents = message.latents
    found = EncoderIdentities(
        family=message.family,
        prompt=_identity(message.prompt),
        image=_identity(message.image),
        window_tokens=message.window_tokens,
        hidden_width=message.hidden_width,
        pooled_width=message.pooled_width,
        latents=LatentSpace(
            channels=latents.channels,
            pixels_per_latent=latents.pixels_per_latent,
            scaling_factor=latents.scaling_factor,
            latents_mean=tuple(latents.latents_mean),
            latents_std=tuple(latents.latents_std),
        ),
    )
    told = (message.prompt_probe, message.image_probe)
    for own, other in zip(found.probes, told, strict=True):
        if bytes.fromhex(own.hex) != other:
            raise DigestMismatch(expected=f"sha256:{other.hex()}", actual=str(own))
    return found


def _identity(message: pb.EncoderIdentity) -> EncoderIdentity:
    return EncoderIdentity(
        fingerprint=message.fingerprint,
        precision=_dtype(message.precision),
        stored=_dtype(message.stored),
    )


def _dtype(name: str) -> StoredDtype:
    if name not in get_args(StoredDtype):
        raise ResponseCorrupt(f"encoders compute or keep in {name!r:.80}")
    return name  # type: ignore[return-value] # one of them
