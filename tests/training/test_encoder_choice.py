"""The stage of a cache whose encoders are the trained model's."""

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import EncoderIdentity
from diptych.errors import EncodersMismatch
from diptych.models.embedding_records import image_identity, prompt_identity
from diptych.models.experts import OpenExpert, load_conditioners, open_expert
from diptych.nano.pair import expert_path
from diptych.training.encoder_choice import choose_stage, image_fingerprint, prompt_fingerprint
from support.memory_embeddings import ENCODERS


@pytest.fixture(scope="module")
def opened() -> OpenExpert:
    return open_expert(str(expert_path("base")), cache_dir=Path("unused"))


def hosted(opened: OpenExpert, *, prompt: str | None = None) -> EncoderIdentities:
    def identity(fingerprint: str) -> EncoderIdentity:
        return EncoderIdentity(fingerprint=fingerprint, precision="float32", stored="float32")

    own = prompt or prompt_fingerprint(opened)
    return replace(ENCODERS, prompt=identity(own), image=identity(image_fingerprint(opened)))


def test_fingerprints_are_those_of_the_loaded_encoders(opened: OpenExpert) -> None:
    (loaded,) = load_conditioners(str(expert_path("base")), None, cache_dir=Path("unused"))
    assert prompt_fingerprint(opened) == prompt_identity(loaded.text).fingerprint
    assert image_fingerprint(opened) == image_identity(loaded.vae).fingerprint


def test_the_stage_with_the_models_encoders_is_taken(opened: OpenExpert) -> None:
    stages = {"base": ENCODERS, "refiner": hosted(opened)}
    assert choose_stage(opened, stages, cache="here", trains_text=False) == "refiner"


def test_other_encoders_are_refused(opened: OpenExpert) -> None:
    with pytest.raises(EncodersMismatch, match="here"):
        choose_stage(opened, {"base": ENCODERS}, cache="here", trains_text=False)


def test_text_encoders_that_are_trained_need_not_be_the_caches(opened: OpenExpert) -> None:
    stages = {"base": hosted(opened, prompt="another")}
    assert choose_stage(opened, stages, cache="here", trains_text=True) == "base"
    with pytest.raises(EncodersMismatch):
        choose_stage(opened, stages, cache="here", trains_text=False)
