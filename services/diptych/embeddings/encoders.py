"""Whose encoders make a stage's embeddings: all that a caller needs to compute keys without asking.

The cache tells it once, and a training worker then knows every key of its plan.
"""

from dataclasses import dataclass
from typing import Final

from diptych.digest import Digest
from diptych.embeddings.key import EncoderIdentity, ImageRecord, Preprocessing, PromptRecord

__all__ = ["EncoderIdentities", "LatentSpace"]

_PROBE: Final = Preprocessing(resized=(512, 512), crop=(0, 0, 512, 512))


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpace:
    """The space that UNets work in.

    A draw from a posterior becomes latents as
    ``(mean + std * noise - latents_mean) * scaling_factor / latents_std``.
    """

    channels: int
    pixels_per_latent: int
    scaling_factor: float
    latents_mean: tuple[float, ...] = ()
    """Of each channel; empty is 0."""
    latents_std: tuple[float, ...] = ()
    """Of each channel; empty is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderIdentities:
    """The encoders of one stage."""

    family: str
    """Of the expert, such as ``sdxl-base``."""
    prompt: EncoderIdentity
    image: EncoderIdentity
    window_tokens: int
    """Tokens of one window, with those that begin and end it: rows of ``hidden`` for each."""
    hidden_width: int
    """Columns D of ``hidden``."""
    pooled_width: int
    """Columns P of ``pooled``."""
    latents: LatentSpace

    def prompt_record(self, text: str | None) -> PromptRecord:
        """Return what the embedding of ``text`` in one window depends on.

        It is that of ``truncate``, however long the text is, and of ``chunk`` where the text fits
        the window: how many windows a longer one fills only its tokenizer can tell.
        """
        return PromptRecord(encoder=self.prompt, text=text)

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        """Return what the embedding of an image depends on; ``image`` is its file's digest."""
        return ImageRecord(encoder=self.image, image=image, preprocessing=preprocessing)

    @property
    def probes(self) -> tuple[Digest, Digest]:
        """Return the keys of a text and an image: where they agree, two compute keys alike."""
        image = self.image_record(Digest.of_bytes(b""), _PROBE)
        return self.prompt_record("").key(), image.key()
