"""A cache in memory that encodes what it is asked into numbers that follow from the key."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from diptych.clients.embedding_values import EncodedEmbedding, ImagesCall, PromptsCall
from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities, LatentSpace
from diptych.embeddings.entry import write_entry
from diptych.embeddings.key import EncoderIdentity
from diptych.errors import EmbeddingMissing
from diptych.models.embedding_values import to_entry

__all__ = ["ENCODERS", "MemoryCache"]

ENCODERS = EncoderIdentities(
    family="nano",
    prompt=EncoderIdentity(fingerprint="texts", precision="float32", stored="float32"),
    image=EncoderIdentity(fingerprint="vae", precision="float32", stored="float32"),
    window_tokens=7,
    hidden_width=6,
    pooled_width=5,
    latents=LatentSpace(channels=4, pixels_per_latent=8, scaling_factor=0.5),
)


class MemoryCache:
    """What a client of the embedding cache looks like; counts what it encoded."""

    def __init__(self, encoders: EncoderIdentities = ENCODERS) -> None:
        self.kept: dict[Digest, bytes] = {}
        self.num_encoded = 0
        self.num_reads = 0
        self._encoders = encoders

    def encode_prompts(self, call: PromptsCall) -> list[EncodedEmbedding]:
        found = []
        for text in call.prompts:
            key = self._encoders.prompt_record(text).key()
            shapes = {
                "hidden": (self._encoders.window_tokens, self._encoders.hidden_width),
                "pooled": (self._encoders.pooled_width,),
            }
            found.append(self._made(key, "prompt", shapes, call.mode))
        return found

    def encode_images(self, call: ImagesCall) -> list[EncodedEmbedding]:
        found = []
        for one in call.images:
            assert isinstance(one.data, bytes)
            record = self._encoders.image_record(Digest.of_bytes(one.data), one.preprocessing)
            width, height = one.preprocessing.crop[2:]
            per_latent = self._encoders.latents.pixels_per_latent
            shape = (self._encoders.latents.channels, height // per_latent, width // per_latent)
            shapes = {"mean": shape, "std": shape}
            found.append(self._made(record.key(), "image", shapes, call.mode))
        return found

    def find_missing(self, keys: Sequence[Digest]) -> list[Digest]:
        return [key for key in keys if key not in self.kept]

    def read(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        self.num_reads += 1
        for key in keys:
            if key in self.kept:
                yield key, self.kept[key]
        if missing := self.find_missing(keys):
            raise EmbeddingMissing(str(missing[0]), len(missing))

    def _made(
        self, key: Digest, kind: str, shapes: Mapping[str, tuple[int, ...]], mode: str | None
    ) -> EncodedEmbedding:
        generator = torch.Generator().manual_seed(int(key.hex[:12], 16))
        tensors = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
        value = write_entry(to_entry(kind, tensors, "float32"))
        self.num_encoded += 1
        if mode != "bypass":
            self.kept[key] = value
        return EncodedEmbedding(key=key, source="encoded", size_bytes=len(value), value=value)
