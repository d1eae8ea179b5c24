"""Keys and values of text computed once per row."""

import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from diptych.models.text_memory import RowText, TextMemory, remember_text
from diptych.nano.architecture import build_unet


@pytest.fixture
def unet() -> UNet2DConditionModel:
    made: UNet2DConditionModel = build_unet().eval().requires_grad_(requires_grad=False)
    return made


@pytest.fixture
def memory(unet: UNet2DConditionModel) -> TextMemory:
    made = remember_text(unet)
    assert made is not None
    return made


def predict(unet: UNet2DConditionModel, hidden: Tensor) -> Tensor:
    num_rows = len(hidden)
    added = {"text_embeds": torch.zeros(num_rows, 64), "time_ids": torch.zeros(num_rows, 6)}
    x, timestep = torch.ones(num_rows, 4, 16, 16), torch.full((num_rows,), 500.0)
    output: Tensor = unet(x, timestep, hidden, added_cond_kwargs=added, return_dict=False)[0]
    return output


def texts(*seeds: int) -> Tensor:
    return torch.cat(
        [torch.randn(1, 77, 128, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


def projected(memory: TextMemory, hidden: Tensor) -> list[RowText]:
    rows = [RowText() for _ in hidden]
    memory.project(hidden, rows)
    return rows


def test_predicts_what_the_plain_unet_predicts(unet: UNet2DConditionModel) -> None:
    expected = predict(unet, texts(1))
    remember_text(unet)
    torch.testing.assert_close(predict(unet, texts(1)), expected)


def test_what_is_remembered_predicts_the_same_to_the_bit(
    unet: UNet2DConditionModel, memory: TextMemory
) -> None:
    expected = predict(unet, texts(1, 2))
    with memory.using(projected(memory, texts(1, 2))):
        assert torch.equal(predict(unet, torch.zeros(2, 77, 128)), expected)


def test_rows_take_their_memory_into_any_batch(
    unet: UNet2DConditionModel, memory: TextMemory
) -> None:
    first, second, third = projected(memory, texts(1, 2, 3))
    (alone,) = projected(memory, texts(2))
    with memory.using([third, alone]):
        found = predict(unet, torch.zeros(2, 77, 128))
    with memory.using([third, second]):
        assert torch.equal(found, predict(unet, torch.zeros(2, 77, 128)))
    with memory.using([third, first]):
        assert not torch.equal(found, predict(unet, torch.zeros(2, 77, 128)))


def test_a_text_is_projected_once(unet: UNet2DConditionModel, memory: TextMemory) -> None:
    calls: list[object] = []
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_k.register_forward_hook(lambda *call: calls.append(call))
    rows = projected(memory, texts(1))
    for _ in range(3):
        with memory.using(rows):
            predict(unet, texts(1))
    assert len(calls) == 1


def test_outside_of_a_batch_nothing_is_remembered(
    unet: UNet2DConditionModel, memory: TextMemory
) -> None:
    expected = predict(unet, texts(2))
    with memory.using(projected(memory, texts(1))):
        predict(unet, texts(1))
    assert torch.equal(predict(unet, texts(2)), expected)


def test_what_a_row_remembers_goes_with_it(memory: TextMemory) -> None:
    left, kept = projected(memory, texts(1, 2))
    assert left.keys_values is not None
    assert kept.keys_values is not None
    key = kept.keys_values[0][0]
    assert key.untyped_storage().nbytes() == key.numel() * key.element_size()
    gone = weakref.ref(left.keys_values[0][0])
    del left
    assert gone() is None


def test_a_large_unet_is_left_as_it_is() -> None:
    with torch.device("meta"):
        large = UNet2DConditionModel(
            block_out_channels=(640, 1280),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=2048,
        )
    assert remember_text(large) is None
    assert {type(found) for found in large.attn_processors.values()} == {AttnProcessor2_0}
