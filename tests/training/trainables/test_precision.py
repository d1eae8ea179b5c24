"""Float32 weights compute in their input's dtype as half-precision weights do, to the bit."""

import pytest
import torch
from torch import nn

from diptych.training.trainables.precision import compute_in

LAYERS = {
    "linear": (nn.Linear(6, 5), torch.randn(3, 6)),
    "no bias": (nn.Linear(6, 5, bias=False), torch.randn(3, 6)),
    "convolution": (nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 5, 5)),
    "group norm": (nn.GroupNorm(2, 4), torch.randn(2, 4, 5, 5)),
    "layer norm": (nn.LayerNorm(6), torch.randn(3, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_does_what_it_does_in_half(name: str) -> None:
    layer, x = LAYERS[name]
    state = layer.state_dict()
    half = type(layer)(**_arguments(layer)).bfloat16()
    half.load_state_dict(state)
    compute_in(layer, torch.bfloat16)
    output = layer(x.bfloat16())
    assert torch.equal(output, half(x.bfloat16()))
    torch.autograd.backward(output.sum())
    assert {one.grad.dtype for one in layer.parameters() if one.grad is not None} == {torch.float32}


def _arguments(layer: nn.Module) -> dict[str, object]:
    if isinstance(layer, nn.Linear):
        return {"in_features": 6, "out_features": 5, "bias": layer.bias is not None}
    if isinstance(layer, nn.Conv2d):
        return {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1}
    return (
        {"num_groups": 2, "num_channels": 4}
        if isinstance(layer, nn.GroupNorm)
        else {"normalized_shape": 6}
    )


def test_embeddings_give_what_is_computed_in() -> None:
    layer = nn.Embedding(4, 3)
    compute_in(layer, torch.float16)
    assert layer(torch.tensor([1])).dtype is torch.float16
    assert layer.weight.dtype is torch.float32


def test_a_layer_that_is_not_known_is_refused() -> None:
    with pytest.raises(KeyError):
        compute_in(nn.PReLU(), torch.bfloat16)


def test_float32_stays_as_it_is() -> None:
    layer = nn.PReLU()
    compute_in(layer, torch.float32)
    assert type(layer) is nn.PReLU
