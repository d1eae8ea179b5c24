"""Space ``factors`` makes the tensors that PEFT's ``add_weighted_adapter`` makes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import peft.tuners.lora.model as peft_model
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Component, LowRank, Target
from diptych.adapters.merge.merging import merge
from diptych.adapters.merge.spec import FACTOR_METHODS, MergeSpec
from diptych.errors import InvalidRequest
from support.made_adapters import noise

SEED = 11
ALPHAS = (2, 9, 6)
TOLERANCE = 1e-6


class Network(nn.Module):
    """Three layers in an order that is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(20, 12, bias=False)
        self.conv = nn.Conv2d(6, 10, 3, bias=False)
        self.attn = nn.Linear(16, 24, bias=False)
        self.point = nn.Conv2d(8, 4, 1, bias=False)


MODULES = tuple(name for name, _ in Network().named_children())


def filled(ranks: Sequence[int], modules: Sequence[Sequence[str]]) -> Any:
    """Return a network that holds an adapter of each rank, on the modules named for it."""
    model: Any = None
    for index, (rank, chosen) in enumerate(zip(ranks, modules, strict=True)):
        config = LoraConfig(r=rank, lora_alpha=ALPHAS[index], target_modules=list(chosen))
        if model is None:
            model = get_peft_model(Network(), config, adapter_name="a0")
        else:
            model.add_adapter(f"a{index}", config)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_" in name:
            parameter.data = noise(*parameter.shape, seed=number)
    return model


def read(model: Any, name: str) -> Adapter:
    """Return one adapter of ``model``, its targets in the order of the model's modules."""
    found: dict[Target, LowRank] = {}
    for module, layer in model.base_model.model.named_children():
        if name in getattr(layer, "lora_A", {}):
            down = layer.lora_A[name].weight.detach()
            up = layer.lora_B[name].weight.detach().flatten(1)
            alpha = layer.scaling[name] * len(down)
            found[unet(module)] = LowRank(down=down, up=up, alpha=alpha)
    return Adapter(targets=MappingProxyType(found))


def unet(module: str) -> Target:
    return Target(component=Component.UNET, module=module)


def theirs(
    model: Any, weights: Sequence[float], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Mapping[Target, LowRank]:
    """Merge with PEFT, its generator seeded where it begins to draw."""
    freeze = peft_model._freeze_adapter  # type: ignore[attr-defined]

    def seed_then_freeze(*arguments: Any) -> None:
        torch.default_generator.manual_seed(SEED)
        freeze(*arguments)

    monkeypatch.setattr(peft_model, "_freeze_adapter", seed_then_freeze)
    names = [f"a{index}" for index in range(len(weights))]
    with torch.random.fork_rng():
        model.base_model.add_weighted_adapter(names, list(weights), "merged", **options)
    return read(model, "merged").targets


def ours(model: Any, weights: Sequence[float], **options: Any) -> Mapping[Target, LowRank]:
    spec = MergeSpec(space="factors", weights=tuple(weights), seed=SEED, **options)
    return merge([read(model, f"a{i}") for i in range(len(weights))], spec).adapter.targets


def furthest(found: Mapping[Target, LowRank], expected: Mapping[Target, LowRank]) -> float:
    """Return the largest difference of two adapters' tensors."""
    assert list(found) == list(expected)
    return max(
        apart(side, other_side)
        for target, low_rank in found.items()
        for side, other_side in (
            (low_rank.down, expected[target].down),
            (low_rank.up, expected[target].up),
        )
    )


def apart(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def options_of(method: str, **more: Any) -> dict[str, Any]:
    density = {} if method in {"linear", "cat", "svd"} else {"density": 0.6}
    return {"method": method} | density | more


def peft_options(options: Mapping[str, Any]) -> dict[str, Any]:
    names = {"method": "combination_type", "election": "majority_sign_method", "rank": "svd_rank"}
    return {names.get(name, name): value for name, value in options.items()}


@pytest.mark.parametrize("method", FACTOR_METHODS)
@pytest.mark.parametrize("weights", [(0.7, 0.5, 1.2), (0.7, -0.5, -1.2)])
def test_every_type_makes_the_tensors_that_peft_makes(
    method: str, weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = filled([4] * 3, [MODULES] * 3), options_of(method)
    found = ours(model, weights, **options)
    expected = theirs(model, weights, monkeypatch, **peft_options(options))
    assert furthest(found, expected) <= TOLERANCE


@pytest.mark.parametrize("method", [m for m in FACTOR_METHODS if m.startswith(("ties", "dare_t"))])
def test_elections_by_frequency_are_pefts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = filled([4] * 3, [MODULES] * 3)
    options = options_of(method, election="frequency")
    found = ours(model, (1.0, 0.5, 2.0), **options)
    expected = theirs(model, (1.0, 0.5, 2.0), monkeypatch, **peft_options(options))
    assert furthest(found, expected) <= TOLERANCE


@pytest.mark.parametrize("method", ["svd", "ties_svd", "dare_linear_svd", "cat"])
def test_unlike_ranks_and_modules_are_merged_as_peft_does(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = filled([2, 4], [MODULES[:3], MODULES[1:]])
    options = options_of(method)
    found = ours(model, (1.0, 0.5), **options)
    expected = theirs(model, (1.0, 0.5), monkeypatch, **peft_options(options))
    assert furthest(found, expected) <= TOLERANCE


@pytest.mark.parametrize("method", ["svd", "dare_ties_svd"])
def test_a_given_rank_cuts_as_pefts_svd_rank(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = filled([4, 4], [MODULES] * 2)
    options = options_of(method, rank=3)
    found = ours(model, (1.0, 0.5), **options)
    expected = theirs(model, (1.0, 0.5), monkeypatch, **peft_options(options))
    assert furthest(found, expected) <= TOLERANCE


@pytest.mark.parametrize("method", ["ties", "svd", "dare_linear"])
def test_one_adapter_is_always_merged_linearly(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = filled([4], [MODULES]), options_of(method)
    found = ours(model, (0.5,), **options)
    expected = theirs(model, (0.5,), monkeypatch, **peft_options(options))
    assert furthest(found, expected) <= TOLERANCE


def test_half_precision_is_widened_as_peft_widens_it() -> None:
    half = read(filled([4], [MODULES]), "a0")
    targets = {
        t: LowRank(down=low.down.half(), up=low.up.half(), alpha=4.0)
        for t, low in half.targets.items()
    }
    spec = MergeSpec(method="linear", space="factors")
    merged = merge([Adapter(targets=targets)], spec).adapter
    assert {low.down.dtype for low in merged.targets.values()} == {torch.float32}


def test_equal_seeds_draw_alike_and_others_do_not() -> None:
    model = filled([4, 4], [MODULES] * 2)
    adapters = [read(model, "a0"), read(model, "a1")]

    def drawn(seed: int) -> Tensor:
        spec = MergeSpec(method="dare_linear", space="factors", density=0.5, seed=seed)
        return merge(adapters, spec).adapter.targets[unet("attn")].down

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties"])
def test_unlike_ranks_are_refused_where_sides_are_merged_apart(method: str) -> None:
    model = filled([2, 5], [MODULES] * 2)
    with pytest.raises(InvalidRequest, match="needs equal ranks"):
        ours(model, (1.0, 1.0), **options_of(method))


def test_a_concatenation_over_the_limit_is_refused() -> None:
    adapters = [read(filled([90], [("attn",)]), "a0")] * 2
    with pytest.raises(InvalidRequest, match="cat makes rank 180, over the limit of 128"):
        merge(adapters, MergeSpec(method="cat", space="factors"))


def test_the_error_of_merging_sides_apart_is_told() -> None:
    model = filled([4, 4], [MODULES] * 2)
    adapters = [read(model, "a0"), read(model, "a1")]
    spec = MergeSpec(method="linear", space="factors")
    assert merge(adapters, spec).report.error > 0.5
