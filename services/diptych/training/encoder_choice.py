"""Which stage of a cache has the encoders of the model that is trained."""

from collections.abc import Mapping

from diptych.digest import Digest
from diptych.embeddings.encoders import EncoderIdentities
from diptych.errors import EncodersMismatch
from diptych.models.experts import OpenExpert
from diptych.models.parts import fingerprint_part
from diptych.models.vocabulary import load_vocabulary

__all__ = ["choose_stage", "image_fingerprint", "prompt_fingerprint"]

_TEXT_PARTS = ("text_encoder", "text_encoder_2")
_TEXT_WINDOW = 77


def choose_stage(
    opened: OpenExpert,
    hosted: Mapping[str, EncoderIdentities],
    *,
    cache: str,
    trains_text: bool,
) -> str:
    """Return the stage whose embeddings are those of an expert's own encoders.

    Args:
        opened: The expert's checkpoint.
        hosted: What the cache has, by stage.
        cache: What errors call it.
        trains_text: Whether prompts go through the expert's encoders while it is trained, so that
            those of the cache do not matter.

    Raises:
        EncodersMismatch: No stage has them.
    """
    image = image_fingerprint(opened)
    prompt = None if trains_text else prompt_fingerprint(opened)
    for stage, found in hosted.items():
        if found.image.fingerprint == image and prompt in {None, found.prompt.fingerprint}:
            return stage
    raise EncodersMismatch(cache=cache, model=opened.checkpoint.source)


def image_fingerprint(opened: OpenExpert) -> str:
    """Return what keys call the autoencoder of a checkpoint."""
    return fingerprint_part(opened.checkpoint.parts["vae"])


def prompt_fingerprint(opened: OpenExpert) -> str:
    """Return what keys call the text encoders of a checkpoint; no weights are loaded."""
    checkpoint = opened.checkpoint
    found = []
    for name in _TEXT_PARTS:
        if name in checkpoint.parts:
            part = checkpoint.parts[name]
            window = part.config.get("max_position_embeddings", _TEXT_WINDOW)
            assert isinstance(window, int)
            files = checkpoint.tokenizers[name]
            words = load_vocabulary(files, checkpoint.source, window=window)
            found.append(f"{fingerprint_part(part)}+{words.fingerprint}")
    return str(Digest.of_value(found))
