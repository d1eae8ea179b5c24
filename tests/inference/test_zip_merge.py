"""A zip keeps each source's effect at its prompt better than sums do, and leaves no trace."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, MadeFor, Target
from diptych.adapters.bundle import digest_of, from_bytes
from diptych.adapters.merge.merging import merge
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.merge.zipping import ZipSpec
from diptych.adapters.naming import Stage
from diptych.adapters.writing import write_adapter
from diptych.errors import AdapterMismatch, ExpertMissing, InvalidRequest, PromptTooLong
from diptych.inference.zip_merge import Zipped, zip_merge
from diptych.models.experts import Experts, load_experts
from diptych.models.text_encoders import PromptRow
from diptych.nano.pair import adapter_path, expert_path
from support.made_adapters import noise
from support.small_experts import make_expert

PROMPTS = ("a red circle", "a blue square")
SPEC = ZipSpec(prompts=PROMPTS, num_steps=20, learning_rate=0.03)
ENCODER_LAYER = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """Return two experts around small random UNets."""
    folder = tmp_path_factory.mktemp("experts")
    pair = [make_expert(folder / name, seed=seed) for seed, name in enumerate(("b", "r"))]
    return load_experts(*map(str, pair), cache_dir=folder)


@pytest.fixture(scope="module")
def pair(experts: Experts) -> list[Adapter]:
    """Return two adapters of unlike ranks that change the same layers."""
    return [random_adapter(experts, seed=seed, rank=rank) for seed, rank in ((1, 2), (2, 5))]


@pytest.fixture(scope="module")
def zipped(experts: Experts, pair: list[Adapter]) -> Zipped:
    """Return the zip of the pair."""
    return zip_merge(pair, SPEC, experts=experts, size=64)


def random_adapter(
    experts: Experts, *, seed: int, rank: int, stage: Stage = Stage.BASE, text: bool = False
) -> Adapter:
    """Return a LoRA of half the attention's and the first resnets' layers, loud enough to hear."""
    assert experts.base is not None
    targets = {}
    for index, (name, weight) in enumerate(experts.base.unet.module.named_parameters()):
        module = name.removesuffix(".weight")
        if module.endswith(("to_q", "to_v", "conv1", "to_out.0")):
            shape = weight.shape
            down = noise(rank, *shape[1:], seed=seed + index) / shape[1:].numel() ** 0.5
            up = 0.5 * noise(shape[0], rank, seed=seed + index + 1)
            target = Target(component=Component.UNET, module=module)
            targets[target] = LowRank(down=down, up=up, alpha=float(rank))
    if text:
        target = Target(component=Component.TEXT_ENCODER, module=ENCODER_LAYER)
        width = experts.base.text.encoders[0].hidden_dim
        down, up = noise(rank, width, seed=seed), noise(width, rank, seed=seed + 1)
        targets[target] = LowRank(down=down, up=up, alpha=float(rank))
    made_for = MadeFor(stage=stage)
    return Adapter(targets=MappingProxyType(targets), made_for=made_for)


def change(adapter: Adapter) -> dict[str, Tensor]:
    return {
        target.module: low_rank.scale
        * (low_rank.up @ low_rank.down.flatten(1)).view(low_rank.weight_shape)
        for target, low_rank in adapter.targets.items()
        if target.component is Component.UNET
    }


@torch.no_grad()
def predictions(experts: Experts, adapter: Adapter | None, prompt: str) -> Tensor:
    """Return what the base expert predicts with dW added to its weights, at fresh latents."""
    assert experts.base is not None
    unet = deepcopy(experts.base.unet.module)
    for module, update in ({} if adapter is None else change(adapter)).items():
        unet.get_submodule(module).weight += update
    (row,) = experts.base.text.encode([PromptRow(text=prompt)])
    ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    told = {"text_embeds": row.pooled, "time_ids": ids}
    found = [
        unet(noise(1, 4, 8, 8, seed=t), float(t), row.hidden, added_cond_kwargs=told).sample
        for t in (999, 850, 700, 500)
    ]
    return torch.cat(found)


def loss(experts: Experts, merged: Adapter, sources: Sequence[Adapter]) -> float:
    """Return the sum over sources of the merge's relative error at each one's prompt."""
    total = 0.0
    for source, prompt in zip(sources, PROMPTS, strict=True):
        plain, wanted, found = (
            predictions(experts, each, prompt) for each in (None, source, merged)
        )
        total += float((found - wanted).square().sum() / (wanted - plain).square().sum())
    return total


def test_errors_at_the_probes_fall(zipped: Zipped) -> None:
    assert sum(zipped.errors_after) < 0.8 * sum(zipped.errors_before)


@pytest.mark.parametrize("space", ["product", "factors"])
@pytest.mark.parametrize("method", ["linear", "cat"])
def test_it_is_better_than_a_sum_where_it_was_not_trained(
    method: str, space: Any, zipped: Zipped, pair: list[Adapter], experts: Experts
) -> None:
    if (method, space) == ("linear", "factors"):  # which takes equal ranks only
        pair = [random_adapter(experts, seed=seed, rank=2) for seed in (1, 2)]
        adapter = zip_merge(pair, SPEC, experts=experts, size=64).merged.adapter
    else:
        adapter = zipped.merged.adapter
    plain = merge(pair, MergeSpec(method=method, space=space)).adapter
    assert loss(experts, adapter, pair) < loss(experts, plain, pair)


def test_its_rank_is_the_sum_of_ranks(zipped: Zipped) -> None:
    assert {low_rank.rank for low_rank in zipped.merged.adapter.targets.values()} == {7}


def test_equal_inputs_give_equal_digests(
    zipped: Zipped, pair: list[Adapter], experts: Experts
) -> None:
    again = zip_merge(pair, SPEC, experts=experts, size=64)
    assert digest_of(again.merged.adapter) == digest_of(zipped.merged.adapter)


def test_the_served_experts_stay_as_they_were(pair: list[Adapter], experts: Experts) -> None:
    assert experts.base is not None
    unet = experts.base.unet.module
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    zip_merge(pair, replace(SPEC, num_steps=1), experts=experts, size=64)
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())
    assert not [m for m in unet.modules() if m._forward_hooks]
    assert not [p for p in unet.parameters() if p.requires_grad or p.grad is not None]


def test_diffusers_computes_the_same_with_the_exported_file(
    zipped: Zipped, experts: Experts, tmp_path: Path
) -> None:
    assert experts.base is not None
    (data,) = write_adapter(zipped.merged.adapter, "diffusers").values()
    unet = type(experts.base.unet.module).from_config(experts.base.unet.module.config)
    unet.load_state_dict(experts.base.unet.module.state_dict())
    unet.load_lora_adapter(load(data), prefix="unet")
    (row,) = experts.base.text.encode([PromptRow(text="x")])
    told = {"text_embeds": row.pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    with torch.no_grad():
        found = unet(noise(1, 4, 8, 8, seed=999), 999.0, row.hidden, added_cond_kwargs=told).sample
    expected = predictions(experts, zipped.merged.adapter, "x")[:1]
    assert float((found - expected).abs().max()) < 1e-3


def test_a_rank_cuts_the_result(pair: list[Adapter], experts: Experts) -> None:
    spec = replace(SPEC, num_steps=1, rank=3)
    result = zip_merge(pair, spec, experts=experts, size=64).merged
    assert {low_rank.rank for low_rank in result.adapter.targets.values()} == {3}
    assert max(layer.truncation for layer in result.report.layers) > 0


def test_text_encoders_add_up_by_weight(experts: Experts) -> None:
    sources = [random_adapter(experts, seed=s, rank=2, text=True) for s in (1, 2)]
    spec = replace(SPEC, num_steps=1, weights=(1.0, 0.5))
    merged = zip_merge(sources, spec, experts=experts, size=64).merged.adapter.targets
    cat = merge(sources, MergeSpec(method="cat", weights=(1.0, 0.5))).adapter.targets
    target = Target(component=Component.TEXT_ENCODER, module=ENCODER_LAYER)
    assert torch.equal(merged[target].up, cat[target].up)


def test_both_tokens_are_kept(pair: list[Adapter], experts: Experts) -> None:
    sources = [
        replace(adapter, tokens={"<s0>": token(experts, seed)}) for seed, adapter in enumerate(pair)
    ]
    spec = replace(SPEC, prompts=("a <s0>", "in the style of <s0>"), num_steps=1)
    result = zip_merge(sources, spec, experts=experts, size=64).merged
    assert list(result.adapter.tokens) == ["<s0>", "<s0-2>"]


def token(experts: Experts, seed: int) -> LearnedToken:
    assert experts.base is not None
    width = experts.base.text.encoders[0].hidden_dim
    return LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, width, seed=seed)})


@pytest.mark.parametrize("stage", [Stage.REFINER, Stage.BOTH])
def test_other_stages_are_zipped_too(stage: Stage, experts: Experts) -> None:
    sources = [random_adapter(experts, seed=s, rank=2, stage=stage) for s in (1, 2)]
    result = zip_merge(sources, replace(SPEC, num_steps=8), experts=experts, size=64)
    assert result.merged.adapter.made_for.stage is stage
    assert sum(result.errors_after) < sum(result.errors_before)


def test_unlike_stages_are_zipped_on_both_experts(experts: Experts) -> None:
    sources = [
        random_adapter(experts, seed=s, rank=2, stage=stage)
        for s, stage in ((1, Stage.BASE), (2, Stage.BOTH))
    ]
    result = zip_merge(sources, replace(SPEC, num_steps=4), experts=experts, size=64)
    components = {target.component for target in result.merged.adapter.targets}
    assert components == {Component.UNET, Component.REFINER_UNET}


def test_an_expert_that_is_not_there_is_named(pair: list[Adapter], experts: Experts) -> None:
    refiner = Experts(base=None, refiner=experts.refiner)
    with pytest.raises(ExpertMissing, match="base"):
        zip_merge(pair, SPEC, experts=refiner)


def test_an_adapter_of_another_network_is_refused(pair: list[Adapter], experts: Experts) -> None:
    target = Target(component=Component.UNET, module="no.such.layer")
    other = replace(pair[0], targets={target: next(iter(pair[0].targets.values()))})
    with pytest.raises(AdapterMismatch, match=r"adapters\[1\]"):
        zip_merge([pair[0], other], SPEC, experts=experts)


def test_a_long_prompt_is_named(pair: list[Adapter], experts: Experts) -> None:
    spec = replace(SPEC, prompts=("a", "red " * 200))
    with pytest.raises(PromptTooLong, match=r"prompts\[1\]"):
        zip_merge(pair, spec, experts=experts, size=64)


def test_an_adapter_that_does_nothing_is_named(pair: list[Adapter], experts: Experts) -> None:
    silent = {t: replace(low_rank, alpha=0.0) for t, low_rank in pair[1].targets.items()}
    with pytest.raises(InvalidRequest, match=r"adapters\[1\]: changes nothing"):
        zip_merge([pair[0], replace(pair[1], targets=silent)], SPEC, experts=experts, size=64)


def test_progress_is_told_and_can_end_it(pair: list[Adapter], experts: Experts) -> None:
    seen: list[tuple[int, int]] = []

    def stop_at_two(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zip_merge(pair, SPEC, experts=experts, size=64, progress=stop_at_two)
    assert sorted(set(seen)) == [(0, 20), (1, 20), (2, 20)]


@pytest.mark.slow
def test_the_demo_adapters_are_kept_better_than_in_their_sum(tmp_path: Path) -> None:
    sources = [from_bytes(adapter_path(name)) for name in ("night", "moon")]
    scene = "a large red {} on the left on a plain blue background"
    spec = ZipSpec(prompts=(scene.format("star"), scene.format("<moon>")), num_steps=60)
    experts = load_experts(
        *(str(expert_path(name)) for name in ("base", "refiner")), cache_dir=tmp_path
    )
    result = zip_merge(sources, spec, experts=experts)
    assert sum(result.errors_after) < 0.5 * sum(result.errors_before)
