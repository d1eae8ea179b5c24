"""Trained encoders read texts as inference does, and have gradients."""

import pytest
import torch

from diptych.models.experts import load_to_train, open_expert
from diptych.models.text_encoders import PromptRow, TextEncoders
from diptych.nano.pair import expert_path
from diptych.training.trainables.texts import TrainedTexts

TEXTS = ("a red circle on the left", None, "", "a " * 200)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> TextEncoders:
    opened = open_expert(str(expert_path("base")), cache_dir=tmp_path_factory.mktemp("cache"))
    kind = torch.float32
    device = torch.device("cpu")
    _, text = load_to_train(opened, device=device, unet_dtype=kind, text_dtype=kind)
    assert text is not None
    return text


@pytest.mark.parametrize("zeros", [True, False])
def test_a_text_becomes_what_inference_makes_of_it(encoders: TextEncoders, zeros: bool) -> None:
    own = TextEncoders(encoders.encoders, zeros_for_none=zeros)
    with torch.no_grad():
        hidden, pooled = TrainedTexts(own)(TEXTS)
    served = own.encode([PromptRow(text=text, long_prompt="truncate") for text in TEXTS])
    torch.testing.assert_close(hidden, torch.cat([row.hidden for row in served]))
    torch.testing.assert_close(pooled, torch.cat([row.pooled for row in served]))
    assert bool(hidden[1].any()) is not zeros


def test_chunks_fill_as_many_windows_as_the_longest_text(encoders: TextEncoders) -> None:
    with torch.no_grad():
        hidden, pooled = TrainedTexts(encoders, long_prompt="chunk")(TEXTS)
    row = PromptRow(text=TEXTS[0], long_prompt="chunk", min_windows=3)
    (served,) = encoders.encode([row])
    torch.testing.assert_close(hidden[:1], served.hidden)
    torch.testing.assert_close(pooled[:1], served.pooled)


def test_start_and_end_are_in_every_window(encoders: TextEncoders) -> None:
    seen: list[list[int]] = []
    embeddings = encoders.encoders[0].module.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda _, args: seen.extend(args[0].tolist()))
    with torch.no_grad():
        TrainedTexts(encoders)(("a circle",))
    hook.remove()
    vocabulary = encoders.encoders[0].vocabulary
    ids, _ = vocabulary.tokenize("a circle")
    assert seen[0][: len(ids) + 2] == [vocabulary.bos_id, *ids, vocabulary.eos_id]


def test_all_weights_get_gradients_also_of_rows_that_are_zeros(encoders: TextEncoders) -> None:
    texts = TrainedTexts(encoders, recompute=True).requires_grad_(requires_grad=True)
    hidden, pooled = texts((None,))
    torch.autograd.backward(hidden.sum() + pooled.sum())
    gradients = [one.grad for one in texts.get_submodule("text_encoder_2").parameters()]
    assert all(one is not None and not one.any() for one in gradients)
    texts.requires_grad_(requires_grad=False)
