"""What a training worker does about embeddings, as its dataset's cache mode says.

Keys come from the plan and the encoders' identity, so a worker knows them without asking; what is
missing it sends to be encoded, and no more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

from diptych.clients.embedding_values import (
    EncodedEmbedding,
    ImageInput,
    ImagesCall,
    PromptsCall,
)
from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing
from diptych.errors import DigestMismatch, EmbeddingMissing

__all__ = ["ImageWanted", "ObtainMode", "PromptWanted", "Wanted", "obtain"]

ObtainMode = Literal["read_through", "on_demand", "read_only", "bypass"]
"""As a manifest's ``cache`` says. While training, the first two are the same: what is missing is
encoded and kept; ``read_through`` was meant to be warmed up, so that little is."""
NUM_AT_ONCE: Final = 4
"""Values that one answer holds for certain, at SDXL's sizes."""
Item = TypeVar("Item", "PromptWanted", "ImageWanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWanted:
    """A text whose embedding is wanted."""

    key: Digest
    text: str | None
    """After every transform; None is a negative prompt that is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWanted:
    """An image whose embedding is wanted."""

    key: Digest
    preprocessing: Preprocessing
    read: Callable[[], bytes]
    """Returns the file; called only where it has to be encoded."""
    label: str = ""


Wanted = PromptWanted | ImageWanted


class Cache(Protocol):
    """What is asked of ``EmbeddingCacheClient``."""

    def encode_prompts(self, call: PromptsCall) -> list[EncodedEmbedding]:
        """Return the embedding of each text."""

    def encode_images(self, call: ImagesCall) -> list[EncodedEmbedding]:
        """Return the embedding of each image."""

    def find_missing(self, keys: Sequence[Digest]) -> list[Digest]:
        """Return those that are not there."""

    def read(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield embeddings."""


def obtain(
    cache: Cache,
    wanted: Sequence[Wanted],
    *,
    mode: ObtainMode = "read_through",
    stage: str | None = None,
    long_prompt: str = "truncate",
) -> dict[Digest, bytes]:
    """Return the embedding of each of ``wanted`` by its key.

    Args:
        cache: A client of the service.
        wanted: Texts and images of a batch or a few.
        mode: What is done about those that are missing.
        stage: Whose encoders, as ``PromptsCall`` has it.
        long_prompt: As the keys of texts beyond the encoders' window were computed.

    Raises:
        EmbeddingMissing: Some are not there, and ``read_only`` lets none be made.
        DigestMismatch: The service's encoders are others than those that the keys name.
        DiptychError: What the service raised, or reading an image.
    """
    by_key = {one.key: one for one in wanted}
    making = _Making(cache, mode, stage, long_prompt)
    if mode == "bypass":
        return making.make(list(by_key.values()))
    missing = cache.find_missing(list(by_key))
    if missing and mode == "read_only":
        raise EmbeddingMissing(str(missing[0]), len(missing))
    made = making.make([by_key[key] for key in missing])
    return made | dict(cache.read([key for key in by_key if key not in made]))


@dataclass(frozen=True, slots=True)
class _Making:
    """How missing embeddings are asked for."""

    cache: Cache
    mode: ObtainMode
    stage: str | None
    long_prompt: str

    def make(self, wanted: Sequence[Wanted]) -> dict[Digest, bytes]:
        """Return those embeddings that the answers hold; the others are kept by now."""
        prompts = [one for one in wanted if isinstance(one, PromptWanted)]
        images = [one for one in wanted if isinstance(one, ImageWanted)]
        made: dict[Digest, bytes] = {}
        for some_prompts in _groups(prompts):
            made |= _checked(some_prompts, self._prompts(some_prompts))
        for some_images in _groups(images):
            made |= _checked(some_images, self._images(some_images))
        return made

    def _prompts(self, wanted: Sequence[PromptWanted]) -> list[EncodedEmbedding]:
        call = PromptsCall(
            prompts=[one.text for one in wanted],
            stage=self.stage,
            mode=self._call_mode(),
            return_values=True,
            long_prompt=self.long_prompt,
        )
        return self.cache.encode_prompts(call)

    def _images(self, wanted: Sequence[ImageWanted]) -> list[EncodedEmbedding]:
        images = [
            ImageInput(data=one.read(), preprocessing=one.preprocessing, label=one.label)
            for one in wanted
        ]
        call = ImagesCall(
            images=images, stage=self.stage, mode=self._call_mode(), return_values=True
        )
        return self.cache.encode_images(call)

    def _call_mode(self) -> str:
        return "bypass" if self.mode == "bypass" else "read_through"


def _groups(wanted: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (wanted[at : at + NUM_AT_ONCE] for at in range(0, len(wanted), NUM_AT_ONCE))


def _checked(wanted: Sequence[Item], made: Sequence[EncodedEmbedding]) -> dict[Digest, bytes]:
    """Return the values of what was made, under the keys it was wanted by."""
    found: dict[Digest, bytes] = {}
    for one, other in zip(wanted, made, strict=True):
        if one.key != other.key:
            raise DigestMismatch(expected=str(one.key), actual=str(other.key))
        if other.value is not None:
            found[one.key] = other.value
    return found
