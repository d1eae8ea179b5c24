"""Low-rank updates as PEFT's layers: put into a network, taken out as an adapter's values.

Factors and norms are float32 whatever the network computes in. LoRA (Hu et al. 2021) computes in
the network's dtype from factors that are cast at their use. DoRA (Liu et al. 2024) computes in
float32: its gain is a quotient of nearly equal norms, of which bfloat16 keeps three digits.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diptych.adapters.adapter import LowRank, Magnitude
from diptych.training.trainables.fused_linear import fuse
from diptych.training.trainables.layers import LayerPlan
from diptych.training.trainables.precision import compute_in
from diptych.training.trainables.whole_tensors import whole

__all__ = ["LowRankOptions", "add_low_rank", "low_ranks_of", "merged_weights", "switched_off"]

_NAME: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankOptions:
    """How updates are made and computed."""

    dora: bool = False
    rank_stabilised: bool = False
    dropout: float = 0.0
    init: str = "default"
    """``default`` is Kaiming's uniform, as PEFT has it, or ``gaussian``."""
    seed: int = 0


def add_low_rank(
    network: nn.Module, layers: Mapping[str, LayerPlan], options: LowRankOptions
) -> None:
    """Put an update on each of ``layers`` of a frozen ``network``; only they are trained then.

    Args:
        network: Its linear layers and convolutions keep their weights.
        layers: By name of the module.
        options: ``rank_stabilised`` counts for layers without a start only.
    """
    ranks = {name: plan.rank for name, plan in layers.items()}
    alphas = {name: plan.alpha for name, plan in layers.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    config = LoraConfig(
        r=int(rank),
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(layers),
        rank_pattern={f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(n)}": a for n, a in alphas.items() if a != alpha},
        lora_dropout=options.dropout,
        init_lora_weights="gaussian" if options.init == "gaussian" else True,
        use_rslora=options.rank_stabilised,
        use_dora=options.dora,
    )
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        inject_adapter_in_model(config, network, _NAME)
    found = dict(_lora_layers(network))
    assert found.keys() == layers.keys()
    for name, layer in found.items():
        _begin(layer, layers[name].start)


def low_ranks_of(network: nn.Module) -> dict[str, LowRank]:
    """Return the updates by module: copies, float32, on the CPU, rsLoRA's scale as alpha / rank."""
    return {name: _low_rank(layer) for name, layer in _lora_layers(network)}


def merged_weights(network: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """Return what gives each weight of ``network`` with its update added: float32, on the CPU."""
    layers = {f"{name}.base_layer.weight": layer for name, layer in _lora_layers(network)}
    return {
        name.replace(".base_layer.", "."): partial(_merged, tensor, layers.get(name))
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }


@contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Let ``network`` compute without its updates."""
    layers = [layer for _, layer in _lora_layers(network)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def _lora_layers(network: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _begin(layer: LoraLayer, start: LowRank | None) -> None:
    """Make the factors float32 and what they begin with."""
    base: nn.Module = layer.get_base_layer()
    weight = base.weight
    assert isinstance(weight, Tensor)
    down, up = layer.lora_A[_NAME].float(), layer.lora_B[_NAME].float()
    if start is not None:
        _set(down.weight, start.down)
        _set(up.weight, start.up)
        layer.scaling[_NAME] = start.scale
        layer.use_rslora[_NAME] = False
    if not layer.use_dora[_NAME]:
        layer.cast_input_dtype_enabled = False
        compute_in(down, weight.dtype)
        compute_in(up, weight.dtype)
        fuse(layer)
        return
    norms = layer.lora_magnitude_vector[_NAME].float().weight
    if start is not None and start.magnitude is not None:
        _set(norms, start.magnitude.norms)
        return
    assert isinstance(down.weight, Tensor)
    assert isinstance(up.weight, Tensor)
    product = up.weight.flatten(1) @ down.weight.flatten(1) * layer.scaling[_NAME]
    _set(norms, (weight.float().flatten(1) + product).norm(dim=1))


def _set(parameter: Tensor | nn.Module, value: Tensor) -> None:
    assert isinstance(parameter, Tensor)
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def _merged(weight: Tensor, layer: LoraLayer | None) -> Tensor:
    if layer is None:
        return whole(weight)
    own = _low_rank(layer)
    assert own.magnitude is None
    update = own.up @ own.down.flatten(1) * own.scale
    return whole(weight) + update.view(weight.shape)


def _low_rank(layer: LoraLayer) -> LowRank:
    down, up = _weight(layer.lora_A), _weight(layer.lora_B)
    alpha = layer.lora_alpha[_NAME]
    if layer.use_rslora[_NAME]:
        alpha = layer.scaling[_NAME] * layer.r[_NAME]
    magnitude = None
    if layer.use_dora[_NAME]:
        norms = _weight(layer.lora_magnitude_vector).flatten()
        magnitude = Magnitude(norms=norms, per_input=False)
    return LowRank(down=down, up=up.flatten(1), alpha=float(alpha), magnitude=magnitude)


def _weight(modules: nn.ModuleDict) -> Tensor:
    weight = modules[_NAME].weight
    assert isinstance(weight, Tensor)
    return whole(weight)


def _commonest(values: Mapping[str, float]) -> float:
    return Counter(values.values()).most_common(1)[0][0]
