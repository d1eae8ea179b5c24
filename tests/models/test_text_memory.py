"""Keys and values of text computed once per batch of text."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diptych.models.text_memory import forget_text, remember_text
from diptych.nano.architecture import build_unet


@pytest.fixture
def unet() -> UNet2DConditionModel:
    made: UNet2DConditionModel = build_unet().eval().requires_grad_(requires_grad=False)
    remember_text(made)
    return made


def predict(unet: UNet2DConditionModel, hidden: Tensor) -> Tensor:
    added = {"text_embeds": torch.zeros(1, 64), "time_ids": torch.zeros(1, 6)}
    x, timestep = torch.ones(1, 4, 16, 16), torch.tensor([500.0])
    output: Tensor = unet(x, timestep, hidden, added_cond_kwargs=added, return_dict=False)[0]
    return output


def text(seed: int) -> Tensor:
    return torch.randn(1, 77, 128, generator=torch.Generator().manual_seed(seed))


def test_predicts_what_the_plain_unet_predicts(unet: UNet2DConditionModel) -> None:
    plain = build_unet().eval().requires_grad_(requires_grad=False)
    plain.load_state_dict(unet.state_dict())
    torch.testing.assert_close(predict(unet, text(1)), predict(plain, text(1)))


def test_remembers_a_text_and_tells_it_from_another(unet: UNet2DConditionModel) -> None:
    first, second = text(1), text(2)
    expected = [predict(unet, first), predict(unet, second)]
    again = [predict(unet, first), predict(unet, first), predict(unet, second)]
    torch.testing.assert_close(again, [expected[0], expected[0], expected[1]])


def test_projects_a_text_once(unet: UNet2DConditionModel) -> None:
    calls: list[object] = []
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_k.register_forward_hook(lambda *call: calls.append(call))
    hidden = text(1)
    for _ in range(3):
        predict(unet, hidden)
    assert len(calls) == 1


def test_forgets_when_it_is_told_to(unet: UNet2DConditionModel) -> None:
    hidden = text(1)
    before = predict(unet, hidden)
    for block in unet.modules():
        if getattr(block, "is_cross_attention", False):
            block.to_v.weight.mul_(3.0)
    assert torch.equal(predict(unet, hidden), before)
    forget_text(unet)
    assert not torch.equal(predict(unet, hidden), before)
