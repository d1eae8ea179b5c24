"""One expert's encoders as the cache uses them: records in, entries out.

A base and a refiner that share their text encoders or their autoencoder give equal keys, so what
one stage of a fine-tune has encoded the other finds.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.embeddings.entry import write_entry
from diptych.embeddings.key import (
    EncoderIdentity,
    ImageRecord,
    Preprocessing,
    PromptRecord,
    StoredDtype,
)
from diptych.errors import FieldViolation, InvalidRequest, OutOfDeviceMemory
from diptych.models.autoencoder import pixels_from_images
from diptych.models.embedding_records import image_identity, prompt_identity, prompt_record
from diptych.models.embedding_values import to_entry, write_prompt
from diptych.models.experts import Conditioner, Expert
from diptych.models.text_encoders import PromptRow, TextEncoders

__all__ = ["Encoders", "EncodingConfig", "ImageWork", "Work", "shape_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingConfig:
    """What entries are kept in; None keeps what the encoders compute in, bit for bit."""

    prompts: StoredDtype | None = None
    images: StoredDtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageWork:
    """An image to encode: its record, and the pixels [H, W, 3] that ``prepare`` made of it."""

    record: ImageRecord
    pixels: NDArray[np.uint8]


Work = PromptRecord | ImageWork
"""One embedding to make."""


def shape_of(work: Work) -> Hashable:
    """Return what two works must have in common to be encoded in one batch."""
    if isinstance(work, PromptRecord):
        return ("prompt", work.encoder.fingerprint)
    return ("image", work.record.encoder.fingerprint, work.pixels.shape)


class Encoders:
    """The text encoders and the autoencoder of one expert; safe from any thread.

    One thread should do the encoding all the same: a device does one thing at a time.
    """

    def __init__(self, expert: Expert | Conditioner, config: EncodingConfig | None = None) -> None:
        config = config or EncodingConfig()
        self._text, self._vae, self._family = expert.text, expert.vae, expert.family
        # In a record None is zeros: what this expert makes of it was decided when that was made.
        self._recorded = TextEncoders(expert.text.encoders, zeros_for_none=True)
        self.prompt_identity: EncoderIdentity = prompt_identity(expert.text, config.prompts)
        self.image_identity: EncoderIdentity = image_identity(expert.vae, config.images)

    @property
    def identities(self) -> EncoderIdentities:
        """Whose they are, and in which space what they make lies."""
        return EncoderIdentities(
            family=self._family.name,
            prompt=self.prompt_identity,
            image=self.image_identity,
            window_tokens=self._text.window_tokens,
            hidden_width=self._text.hidden_dim,
            pooled_width=self._text.pooled_dim,
            latents=LatentSpace(
                channels=self._vae.latent_channels,
                pixels_per_latent=self._vae.pixels_per_latent,
                scaling_factor=self._vae.scaling_factor,
                latents_mean=self._vae.latents_mean or (),
                latents_std=self._vae.latents_std or (),
            ),
        )

    @property
    def size_multiple(self) -> int:
        """Pixels that the sides of an image must be multiples of."""
        return self._vae.pixels_per_latent

    def prompt_record(
        self,
        text: str | None,
        *,
        clip_skip: int = 0,
        long_prompt: str = "error",
        min_windows: int = 1,
        field: str = "prompt",
    ) -> PromptRecord:
        """Return what the embedding of ``text`` depends on.

        Args:
            text: After every transform; None is a negative prompt that is not given.
            clip_skip: Layers left out beyond the last, as diffusers counts them.
            long_prompt: ``error``, ``truncate`` or ``chunk``, beyond one window.
            min_windows: Windows to fill up to, at least.
            field: What an error calls the text.

        Raises:
            PromptTooLong: ``text`` is longer than one window and that is an error.
            InvalidRequest: The encoders have fewer layers.
        """
        row = PromptRow(
            text=text,
            field=field,
            clip_skip=clip_skip,
            long_prompt=long_prompt,
            min_windows=min_windows,
        )
        record = prompt_record(self._text, row, self.prompt_identity.stored)
        assert record is not None, "without a variant there is always a key"
        return record

    def image_record(self, image: Digest, preprocessing: Preprocessing) -> ImageRecord:
        """Return what the embedding of an image depends on; ``image`` is its file's digest.

        Raises:
            InvalidRequest: The crop's sides are no multiples of ``size_multiple``.
        """
        width, height = preprocessing.crop[2:]
        if width % self.size_multiple or height % self.size_multiple:
            description = f"{width}x{height} is no multiple of {self.size_multiple} pixels"
            raise InvalidRequest([FieldViolation(field="crop", description=description)])
        return ImageRecord(encoder=self.image_identity, image=image, preprocessing=preprocessing)

    def encode(self, works: Sequence[Work]) -> list[bytes]:
        """Return the entries of works of one shape, in order.

        Raises:
            OutOfDeviceMemory: They do not fit the device together.
            EmbeddingInvalid: A result is not finite.
        """
        prompts = [work for work in works if isinstance(work, PromptRecord)]
        images = [work for work in works if isinstance(work, ImageWork)]
        assert not (prompts and images), "one batch has one shape"
        return self.encode_prompts(prompts) if prompts else self.encode_images(images)

    def encode_prompts(self, records: Sequence[PromptRecord]) -> list[bytes]:
        """Return an entry of ``hidden`` and ``pooled`` for each record of these encoders.

        Raises:
            InvalidRequest: A record is another encoder's, or wants adapters, which are not here.
            OutOfDeviceMemory: They do not fit the device together.
            EmbeddingInvalid: A result is not finite as it is to be kept.
        """
        rows = [self._row(record) for record in records]
        try:
            found = self._recorded.encode(rows)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory from error
        return [write_prompt(embeds, self.prompt_identity.stored) for embeds in found]

    def encode_images(self, works: Sequence[ImageWork]) -> list[bytes]:
        """Return an entry of the posterior's ``mean`` and ``std``, unscaled, for each image.

        Raises:
            InvalidRequest: A record is another encoder's, or not of its pixels' size.
            OutOfDeviceMemory: They do not fit the device together.
            EmbeddingInvalid: A result is not finite as it is to be kept.
        """
        for work in works:
            self._check(work.record.encoder, self.image_identity)
        images = np.stack([work.pixels for work in works])
        try:
            means, stds = self._vae.posterior(pixels_from_images(images))
        except torch.OutOfMemoryError as error:
            height, width = images.shape[1:3]
            raise OutOfDeviceMemory(width=width, height=height) from error
        return [
            write_entry(to_entry("image", {"mean": mean, "std": std}, self.image_identity.stored))
            for mean, std in zip(means.cpu(), stds.cpu(), strict=True)
        ]

    def _row(self, record: PromptRecord) -> PromptRow:
        self._check(record.encoder, self.prompt_identity)
        if record.token_overrides or record.weights:
            description = "adapters' texts are encoded where the adapters are"
            raise InvalidRequest([FieldViolation(field="weights", description=description)])
        return PromptRow(
            text=record.text,
            long_prompt="chunk" if record.is_chunked else "truncate",
            min_windows=record.num_windows,
            clip_skip=record.clip_skip,
        )

    @staticmethod
    def _check(asked: EncoderIdentity, own: EncoderIdentity) -> None:
        if asked != own:
            description = f"asks for {asked.fingerprint} in {asked.precision}, kept as "
            description += f"{asked.stored}; here is {own.fingerprint} in {own.precision}, "
            description += f"kept as {own.stored}"
            raise InvalidRequest([FieldViolation(field="encoder", description=description)])
