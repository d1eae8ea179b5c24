"""A fused LoRA is PEFT's, forward and backward."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diptych.training.trainables.fused_linear import fuse
from diptych.training.trainables.precision import compute_in


def adapted(*, bias: bool = True, dropout: float = 0.0, dora: bool = False) -> nn.Module:
    """Return a network of one linear layer 6 -> 5 with a random LoRA of rank 2."""
    network = nn.Sequential(nn.Linear(6, 5, bias=bias)).requires_grad_(requires_grad=False)
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["0"], lora_dropout=dropout, use_dora=dora
    )
    inject_adapter_in_model(config, network)
    generator = torch.Generator().manual_seed(0)
    for one in network.parameters():
        nn.init.normal_(one, generator=generator)
    return network


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the same random numbers each time."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def fused(network: nn.Module) -> nn.Module:
    copy = deepcopy(network)
    fuse(copy[0])  # type: ignore[index]
    return copy


def outcome(network: nn.Module, x: Tensor) -> Sequence[Tensor]:
    """Return output, and the gradients of input and factors."""
    x = x.clone().requires_grad_()
    output = network(x)
    output.square().sum().backward()
    gradients = [one.grad for one in network.parameters() if one.requires_grad]
    assert x.grad is not None
    found = [output, x.grad]
    for one in gradients:
        assert one is not None
        found.append(one)
    return found


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6), (2, 0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_peft_in_float64(
    shape: tuple[int, ...], *, bias: bool
) -> None:
    plain = adapted(bias=bias).double()
    x = drawn(*shape, dtype=torch.float64)
    for ours, theirs in zip(outcome(fused(plain), x), outcome(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    network = fused(adapted().double())
    x = drawn(3, 6, dtype=torch.float64).requires_grad_()
    factors = [one for one in network.parameters() if one.requires_grad]
    assert torch.autograd.gradcheck(lambda *given: network(given[0]), (x, *factors))


def test_of_inputs_that_are_not_contiguous() -> None:
    plain = adapted()
    x = drawn(6, 4, 3).permute(2, 1, 0)
    for ours, theirs in zip(outcome(fused(plain), x), outcome(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_computes_in_half_from_float32_factors_whose_gradients_are_float32() -> None:
    network = adapted()
    layer = network[0]  # type: ignore[index]
    layer.base_layer.bfloat16()
    layer.cast_input_dtype_enabled = False
    compute_in(layer.lora_A, torch.bfloat16)
    compute_in(layer.lora_B, torch.bfloat16)
    x = drawn(3, 6).bfloat16()
    for ours, theirs in zip(outcome(fused(network), x), outcome(network, x), strict=True):
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-1)


def test_without_its_update_it_is_the_layer_below() -> None:
    network = fused(adapted())
    x = drawn(3, 6)
    layer = network[0]  # type: ignore[index]
    layer.enable_adapters(enabled=False)
    torch.testing.assert_close(network(x), layer.base_layer(x))


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"dora": True}])
def test_what_is_more_than_a_lora_stays_as_it_is(options: dict[str, float]) -> None:
    network = fused(adapted(**options))  # type: ignore[arg-type]
    (layer,) = (one for one in network.modules() if isinstance(one, LoraLayer))
    assert type(layer).__module__.startswith("peft.")
