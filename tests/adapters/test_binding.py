"""Bound branches equal, layer by layer, what PEFT computes and what float64 weights give."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from diptych.adapters.adapter import Adapter, LowRank, MadeFor, Magnitude, Target
from diptych.adapters.binding import MAX_BOUND_RANK, Branch, ScaledAdapter, bind, updates_of
from diptych.adapters.naming import Component, Stage
from diptych.errors import AdapterMismatch, InvalidRequest

WEIGHTS = {"linear": (10, 14), "conv": (10, 14, 3, 3)}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weight(kind: str) -> Tensor:
    return drawn(*WEIGHTS[kind])


def update(kind: str, rank: int, *, seed: int = 0, magnitude: Magnitude | None = None) -> LowRank:
    out, *inner = WEIGHTS[kind]
    return LowRank(
        down=0.3 * drawn(rank, *inner, seed=seed),
        up=0.3 * drawn(out, rank, seed=seed),
        alpha=2.0 * rank + 1.0,
        magnitude=magnitude,
    )


def per_output(kind: str, *, seed: int = 0) -> Magnitude:
    norms = weight(kind).flatten(1).norm(dim=1) * (1 + 0.2 * drawn(WEIGHTS[kind][0], seed=seed))
    return Magnitude(norms=norms, per_input=False)


def per_input(kind: str, *, seed: int = 0) -> Magnitude:
    norms = weight(kind).transpose(0, 1).flatten(1).norm(dim=1)
    return Magnitude(norms=norms * (1 + 0.2 * drawn(WEIGHTS[kind][1], seed=seed)), per_input=True)


def bound(kind: str, *parts: tuple[LowRank, float]) -> Branch:
    """Return the branch of adapters at their scales, on one layer."""

    def scaled(position: int, part: tuple[LowRank, float]) -> ScaledAdapter:
        found, scale = part
        return ScaledAdapter(
            name=f"a{position}", updates={"m": found}, scale_of=lambda _module: scale
        )

    adapters = [scaled(*item) for item in enumerate(parts)]
    return bind(adapters, {"m": weight(kind)}.get)["m"]


def bound_weight(kind: str, branch: Branch) -> Tensor:
    """Return the weight a branch amounts to, in float64."""
    found = weight(kind).double().flatten(1)
    if branch.in_gain is not None:
        taps = found.shape[1] // len(branch.in_gain)
        found = found * (1 + branch.in_gain.double()).repeat_interleave(taps)
    if branch.out_gain is not None:
        found = found * (1 + branch.out_gain.double())[:, None]
    found = found + branch.up.double() @ branch.down.double().flatten(1)
    return found.view(WEIGHTS[kind])


def delta(found: LowRank) -> Tensor:
    """Return alpha / r * up @ down in float64."""
    product = found.scale * found.up.double() @ found.down.double().flatten(1)
    return product.view(found.weight_shape)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_unlike_ranks_and_scales_add_up_exactly(kind: str) -> None:
    parts = [(update(kind, 4, seed=1), 0.7), (update(kind, 7, seed=2), -1.3)]
    expected = weight(kind).double() + sum(scale * delta(found) for found, scale in parts)
    torch.testing.assert_close(
        bound_weight(kind, bound(kind, *parts)), expected, atol=1e-6, rtol=1e-6
    )


def test_ranks_lie_side_by_side() -> None:
    assert bound("linear", (update("linear", 4), 1.0), (update("linear", 7), 1.0)).rank == 11


@pytest.mark.parametrize("kind", WEIGHTS)
def test_several_doras_and_a_lora_add_as_differences_of_weights(kind: str) -> None:
    plain, doras = update(kind, 3, seed=5), [(0.4, 1), (1.7, 2)]
    parts = [(plain, 0.5)]
    base = weight(kind).double()
    expected = base + 0.5 * delta(plain)
    for scale, seed in doras:
        found = update(kind, 4, seed=seed, magnitude=per_output(kind, seed=seed))
        parts.append((found, scale))
        moved = base + scale * delta(found)
        norms = moved.flatten(1).norm(dim=1)
        assert found.magnitude is not None
        gain = found.magnitude.norms.double() / norms
        expected += moved * gain.view(-1, *[1] * (base.ndim - 1)) - base
    torch.testing.assert_close(
        bound_weight(kind, bound(kind, *parts)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_norms_per_input_are_interpolated_as_dora_scale_is(kind: str, scale: float) -> None:
    found = update(kind, 4, magnitude=per_input(kind))
    plain = update(kind, 2, seed=9)
    base = weight(kind).double()
    moved = base + delta(found)
    norms = moved.transpose(0, 1).flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
    assert found.magnitude is not None
    gain = (found.magnitude.norms.double() / norms).view(1, -1, *[1] * (base.ndim - 2))
    expected = base + scale * (moved * gain - base) + delta(plain)
    branch = bound(kind, (found, scale), (plain, 1.0))
    torch.testing.assert_close(bound_weight(kind, branch), expected, atol=1e-5, rtol=1e-5)


def test_an_update_may_leave_out_a_kernel_of_one_pixel() -> None:
    flat, base = update("linear", 2), weight("linear")
    found = bind(
        [
            ScaledAdapter(name="a", updates={"m": own}, scale_of=lambda _module: 1.0)
            for own in (flat, replace(flat, down=flat.down[..., None, None]))
        ],
        {"m": base[..., None, None]}.get,
    )["m"]
    assert found.down.shape == (4, base.shape[1], 1, 1)


def test_an_adapter_at_scale_zero_takes_no_rank() -> None:
    branch = bound("linear", (update("linear", 4), 0.0), (update("linear", 3), 1.0))
    assert branch.rank == 3


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(14, 10)
        self.conv = nn.Conv2d(14, 10, 3, padding=1)


def peft_net(settings: Any) -> tuple[_Net, dict[str, Any]]:
    """Return a network that PEFT adapts, with factors and norms drawn at random."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        net = _Net().requires_grad_(requires_grad=False)
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=["linear", "conv"],
            init_lora_weights=False,
            **settings,
        )
        inject_adapter_in_model(config, net, "a")
    layers: dict[str, Any] = {
        name: m for name, m in net.named_modules() if isinstance(m, LoraLayer)
    }
    for layer in layers.values():
        for vector in layer.lora_magnitude_vector.values():
            vector.weight.data.mul_(1 + 0.2 * drawn(*vector.weight.shape))
    return net.eval(), layers


def read_update(layer: Any) -> LowRank:
    """Return what a PEFT layer was drawn with, at scale 1."""
    up, down = layer.lora_B["a"].weight, layer.lora_A["a"].weight
    magnitude = None
    if "a" in layer.lora_magnitude_vector:
        norms = layer.lora_magnitude_vector["a"].weight.flatten()
        magnitude = Magnitude(norms=norms, per_input=False)
    alpha = layer.scaling["a"] * layer.r["a"]
    return LowRank(down=down, up=up.flatten(1), alpha=alpha, magnitude=magnitude)


Run = Callable[[Tensor, Tensor, Tensor], Tensor]
RUNS: dict[str, tuple[Run, Tensor]] = {
    "linear": (functional.linear, drawn(3, 5, 14)),
    "conv": (lambda x, w, b: functional.conv2d(x, w, b, padding=1), drawn(3, 14, 6, 5)),
}


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.0, -0.5])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("kind", WEIGHTS)
@torch.no_grad()
def test_equals_peft(kind: str, settings: dict[str, bool], scale: float) -> None:
    net, layers = peft_net(settings)
    found = read_update(layers[kind])
    layers[kind].set_scale("a", scale)
    base: Any = layers[kind].get_base_layer()
    adapter = ScaledAdapter(name="a", updates={"m": found}, scale_of=lambda _module: scale)
    branch = bind([adapter], lambda _module: base.weight).get("m")
    run, x = RUNS[kind]
    y = run(x, base.weight, torch.zeros(10))
    if branch is not None:
        if branch.out_gain is not None:
            y = y * (1 + branch.out_gain).view((-1,) if kind == "linear" else (-1, 1, 1))
        product = (branch.up @ branch.down.flatten(1)).view(base.weight.shape)
        y = y + run(x, product, torch.zeros(10))
    y = y + base.bias.view((-1,) if kind == "linear" else (-1, 1, 1))
    torch.testing.assert_close(y, net.get_submodule(kind)(x), atol=1e-5, rtol=0)


def adapter_of(stage: Stage, *components: Component) -> Adapter:
    targets = {
        Target(component=component, module="m"): update("linear", rank)
        for rank, component in enumerate(components, start=1)
    }
    return Adapter(targets=targets, made_for=MadeFor(stage=stage))


@pytest.mark.parametrize(
    ("adapter", "stage", "rank"),
    [
        (adapter_of(Stage.BASE, Component.UNET), Stage.BASE, 1),
        (adapter_of(Stage.BASE, Component.UNET), Stage.REFINER, None),
        (adapter_of(Stage.REFINER, Component.UNET), Stage.REFINER, 1),
        (adapter_of(Stage.REFINER, Component.UNET), Stage.BASE, None),
        (adapter_of(Stage.BOTH, Component.UNET), Stage.REFINER, 1),
        (adapter_of(Stage.BOTH, Component.UNET, Component.REFINER_UNET), Stage.BASE, 1),
        (adapter_of(Stage.BOTH, Component.UNET, Component.REFINER_UNET), Stage.REFINER, 2),
    ],
)
def test_an_expert_takes_the_factors_meant_for_it(
    adapter: Adapter, stage: Stage, rank: int | None
) -> None:
    found = updates_of(adapter, Component.UNET, stage=stage)
    assert {name: update.rank for name, update in found.items()} == ({"m": rank} if rank else {})


def test_an_encoder_takes_its_own_factors() -> None:
    adapter = adapter_of(Stage.BOTH, Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
    found = updates_of(adapter, Component.TEXT_ENCODER_2, stage=Stage.REFINER)
    assert found["m"].rank == 2


@pytest.mark.parametrize(("name", "used_on"), [("m", "[10, 14, 3, 3]"), ("other", "missing")])
def test_refuses_a_layer_the_network_does_not_have(name: str, used_on: str) -> None:
    adapter = ScaledAdapter(
        name="a", updates={name: update("linear", 2)}, scale_of=lambda _module: 1.0
    )
    with pytest.raises(AdapterMismatch) as caught:
        bind([adapter], {"m": weight("conv")}.get)
    assert (caught.value.made_for, caught.value.used_on) == ("[10, 14]", used_on)


def test_refuses_more_rank_than_a_batch_may_have() -> None:
    parts = [(update("linear", 128), 1.0)] * 5
    with pytest.raises(InvalidRequest, match=f"640, over the limit of {MAX_BOUND_RANK}"):
        bound("linear", *parts)


def test_refuses_both_kinds_of_norms_on_one_layer() -> None:
    kinds = [per_output("linear"), per_input("linear")]
    with pytest.raises(InvalidRequest, match="norms per output and per input"):
        bound("linear", *[(update("linear", 2, magnitude=kind), 1.0) for kind in kinds])


def test_a_lora_is_bound_without_looking_at_the_weight() -> None:
    weight = torch.empty(6, 4, device="meta")
    low_rank = LowRank(down=torch.ones(2, 4), up=torch.ones(6, 2), alpha=2.0)
    scaled = ScaledAdapter(name="a", updates={"layer": low_rank}, scale_of=lambda _: 0.5)
    bound = bind([scaled], {"layer": weight}.get)["layer"]
    assert (bound.up.device.type, float(bound.up[0, 0])) == ("cpu", 0.5)
