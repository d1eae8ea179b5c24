"""A blend's network computes what the weights with dW added would."""

import pytest
import torch
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Target
from diptych.adapters.merge.blending import MERGED, Blend
from diptych.adapters.merge.zipping import Columns, columns_of
from support.made_adapters import noise
from support.updates import FIRST, KERNEL, adapter_of, added

SOURCES = (adapter_of(1, FIRST, KERNEL, rank=3), adapter_of(2, FIRST, KERNEL, rank=5))


def layer_of(target: Target) -> nn.Linear | nn.Conv2d:
    if target is FIRST:
        return nn.Linear(16, 24)
    return nn.Conv2d(6, 10, 3, stride=2, padding=1)


def picture(target: Target) -> Tensor:
    return noise(4, 7, 16) if target is FIRST else noise(2, 6, 9, 9)


def blended(layer: nn.Module, target: Target) -> tuple[Blend, Columns]:
    own = columns_of([s.targets for s in SOURCES], (1.0, 0.5), torch.device("cpu"))[target]
    with torch.no_grad():
        own.learned.uniform_(-1, 2, generator=torch.Generator().manual_seed(3))
    return Blend(nn.ModuleDict({"layer": layer}), {"layer": own}), own


def with_added(layer: nn.Linear | nn.Conv2d, update: Tensor, x: Tensor) -> Tensor:
    weight = layer.weight + update.float()
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, layer.bias)
    return nn.functional.conv2d(x, weight, layer.bias, stride=2, padding=1)


@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_merged_is_the_packed_update(target: Target) -> None:
    layer = layer_of(target)
    blend, own = blended(layer, target)
    with blend.showing(MERGED):
        found = layer(picture(target))
    update = added(Adapter(targets={target: own.packed()}), target)
    assert torch.allclose(found, with_added(layer, update, picture(target)), atol=1e-4)


@pytest.mark.parametrize("target", [FIRST, KERNEL])
def test_a_source_is_itself_at_its_weight(target: Target) -> None:
    layer = layer_of(target)
    blend, _ = blended(layer, target)
    with blend.showing(1):
        found = layer(picture(target))
    update = 0.5 * added(SOURCES[1], target)
    assert torch.allclose(found, with_added(layer, update, picture(target)), atol=1e-4)


def test_nothing_is_shown_outside() -> None:
    layer = layer_of(FIRST)
    plain = layer(picture(FIRST))
    blend, _ = blended(layer, FIRST)
    with blend.showing(MERGED):
        assert not torch.equal(layer(picture(FIRST)), plain)
    assert torch.equal(layer(picture(FIRST)), plain)


def test_coefficients_get_gradients_and_weights_do_not() -> None:
    layer = layer_of(FIRST).requires_grad_(requires_grad=False)
    blend, own = blended(layer, FIRST)
    with blend.showing(MERGED):
        layer(picture(FIRST)).square().sum().backward()
    assert own.learned.grad is not None
    assert float(own.learned.grad.abs().min()) > 0
    assert layer.weight.grad is None
