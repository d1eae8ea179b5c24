"""Rows that are the same to the bit whatever the batch, and modules that stay what they were."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from diptych.models.row_independence import keep_rows_independent
from diptych.nano.architecture import build_unet

NUM_ROWS = 24


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    made: UNet2DConditionModel = build_unet().eval().requires_grad_(requires_grad=False)
    keep_rows_independent(made)
    return made


def predict(unet: UNet2DConditionModel, num_rows: int, height: int, width: int) -> Tensor:
    """Return the prediction for the first rows of always the same 24."""
    added = {"text_embeds": normal(NUM_ROWS, 64)[:num_rows], "time_ids": torch.ones(num_rows, 6)}
    timestep = torch.linspace(0.0, 999.0, NUM_ROWS)[:num_rows]
    x, hidden = normal(NUM_ROWS, 4, height, width), normal(NUM_ROWS, 77, 128)
    output: Tensor = unet(
        x[:num_rows], timestep, hidden[:num_rows], added_cond_kwargs=added, return_dict=False
    )[0]
    return output


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12)])
@torch.inference_mode()
def test_a_unets_rows_are_the_same_to_the_bit_in_any_batch(
    unet: UNet2DConditionModel, height: int, width: int
) -> None:
    whole = predict(unet, NUM_ROWS, height, width)
    parts = {number: predict(unet, number, height, width) for number in (1, 2, 3, 5, 6, 7, 11)}
    unequal = [number for number, part in parts.items() if not torch.equal(part, whole[:number])]
    assert unequal == []


@torch.inference_mode()
def test_a_unet_predicts_what_it_did(unet: UNet2DConditionModel) -> None:
    plain = build_unet().eval()
    plain.load_state_dict(unet.state_dict())
    torch.testing.assert_close(predict(unet, 3, 16, 16), predict(plain, 3, 16, 16))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 5, 5), (7, 4, 5), (2, 3, 4, 5)])
@torch.inference_mode()
def test_a_linear_map_keeps_the_shape_of_its_input(shape: tuple[int, ...]) -> None:
    plain = nn.Sequential(nn.Linear(5, 3))
    steady = nn.Sequential(nn.Linear(5, 3))
    steady.load_state_dict(plain.state_dict())
    keep_rows_independent(steady)
    torch.testing.assert_close(steady(normal(*shape)), plain(normal(*shape)))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, (1, 3), padding=(0, 2), dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    ],
)
@torch.inference_mode()
def test_a_convolution_computes_what_it_did(conv: nn.Conv2d) -> None:
    replaced = nn.Sequential(conv)
    keep_rows_independent(replaced)
    x = normal(1, 4, 9, 7)
    torch.testing.assert_close(replaced(x), conv(x))


@torch.inference_mode()
def test_convolutions_put_channels_last() -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    keep_rows_independent(module)
    found = (next(module.parameters()), module(normal(2, 4, 9, 7)))
    assert [t.is_contiguous(memory_format=torch.channels_last) for t in found] == [True, True]


def test_names_and_weights_stay(unet: UNet2DConditionModel) -> None:
    vae = AutoencoderKL()
    before = dict(vae.named_parameters())
    keep_rows_independent(vae)
    after = dict(vae.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_a_second_call_replaces_nothing(unet: UNet2DConditionModel) -> None:
    before = list(unet.modules())
    keep_rows_independent(unet)
    assert list(unet.modules()) == before


def test_other_precisions_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1)).to(torch.bfloat16)
    keep_rows_independent(module)
    assert [type(child) for child in module] == [nn.Linear, nn.Conv2d]
