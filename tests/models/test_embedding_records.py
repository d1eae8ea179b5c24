"""Equal embeddings have equal keys; unlike ones never do."""

from dataclasses import replace

import pytest
import torch

from diptych.embeddings.key import PromptRecord
from diptych.errors import PromptTooLong
from diptych.models.embedding_records import image_identity, prompt_identity, prompt_record
from diptych.models.experts import Expert, Experts
from diptych.models.text_encoders import PromptRow, TextEncoders, TextVariant

LONG = "a red circle and a blue square in the middle " * 12
MOON = {name: {"<moon>": torch.ones(1, 64)} for name in ("text_encoder", "text_encoder_2")}
OTHER_MOON = {name: {"<moon>": -torch.ones(1, 64)} for name in MOON}


def record(text: TextEncoders, row: PromptRow) -> PromptRecord:
    found = prompt_record(text, row)
    assert found is not None
    return found


def test_a_base_and_a_refiner_that_share_encoders_share_keys(experts: Experts) -> None:
    assert experts.base is not None
    assert experts.refiner is not None
    row = PromptRow(text="a red circle")
    assert record(experts.base.text, row).key() == record(experts.refiner.text, row).key()
    assert image_identity(experts.base.vae) == image_identity(experts.refiner.vae)


def test_what_a_checkpoint_makes_of_none_does_not_matter_to_other_texts(base: Expert) -> None:
    other = TextEncoders(base.text.encoders, zeros_for_none=False)
    row = PromptRow(text="a red circle")
    assert record(base.text, row) == record(other, row)
    assert record(other, PromptRow(text=None)) == record(other, PromptRow(text=""))
    assert record(base.text, PromptRow(text=None)) != record(base.text, PromptRow(text=""))


@pytest.mark.parametrize("long_prompt", ["error", "truncate", "chunk"])
def test_how_a_long_text_is_treated_is_nothing_to_a_short_one(
    base: Expert, long_prompt: str
) -> None:
    row = PromptRow(text="a", field="base.prompt", long_prompt=long_prompt)
    assert record(base.text, row) == record(base.text, PromptRow(text="a"))


def test_how_a_long_text_is_treated_tells_its_embeddings_apart(base: Expert) -> None:
    cut, chunked = (
        record(base.text, PromptRow(text=LONG, long_prompt=way)) for way in ("truncate", "chunk")
    )
    assert (cut.num_windows, cut.is_chunked) == (1, False)
    assert (chunked.num_windows, chunked.is_chunked) == (3, True)
    with pytest.raises(PromptTooLong):
        prompt_record(base.text, PromptRow(text=LONG))


def test_windows_filled_up_to_are_told_apart(base: Expert) -> None:
    row = PromptRow(text="a", long_prompt="chunk")
    filled = record(base.text, replace(row, min_windows=2))
    assert (filled.num_windows, filled.is_chunked) == (2, False)


def test_zeros_depend_on_nothing_but_their_length(base: Expert) -> None:
    variant = TextVariant(tokens=MOON, weights="lora", identity=("lora",))
    row = PromptRow(text=None, variant=variant, clip_skip=1)
    assert record(base.text, row) == record(base.text, PromptRow(text=None))


def test_vectors_of_a_token_in_the_text_tell_embeddings_apart(base: Expert) -> None:
    rows = [
        PromptRow(text="a <MOON>", variant=variant)
        for variant in (None, TextVariant(tokens=MOON), TextVariant(tokens=OTHER_MOON))
    ]
    assert len({record(base.text, row).key() for row in rows}) == 3


def test_a_token_that_the_text_has_not_changes_nothing(base: Expert) -> None:
    row = PromptRow(text="a moon", variant=TextVariant(tokens=MOON))
    assert record(base.text, row) == record(base.text, PromptRow(text="a moon"))


def test_weights_tell_embeddings_apart_by_their_names(base: Expert) -> None:
    one, other = (
        record(base.text, PromptRow(text="a", variant=TextVariant(weights=1, identity=(name,))))
        for name in ("sha256:aa@1.0", "sha256:aa@0.5")
    )
    assert one.weights == ("sha256:aa@1.0",)
    assert one.key() != other.key()


def test_weights_without_a_name_have_no_key(base: Expert) -> None:
    assert prompt_record(base.text, PromptRow(text="a", variant=TextVariant(weights=1))) is None


def test_what_it_is_kept_in_is_part_of_who_encodes(base: Expert) -> None:
    assert prompt_identity(base.text).stored == "float32"
    assert prompt_identity(base.text, "float16").stored == "float16"
    assert image_identity(base.vae, "bfloat16").stored == "bfloat16"
