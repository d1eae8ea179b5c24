"""Adapters on the device: every row gets its own, as if they were in the weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Stage,
    Target,
)
from diptych.embeddings.memory import MemoryTier
from diptych.errors import AdapterInvalid, AdapterMismatch, DiptychError, InvalidRequest
from diptych.inference.adapter_units import units_of
from diptych.inference.attached import AttachedAdapters
from diptych.inference.conditions import RequestConditions, encode_requests
from diptych.inference.executor import DeviceExecutor
from diptych.inference.prompt_cache import LocalPrompts
from diptych.inference.trajectory import AdapterUse, Expert, ImageRequest, StageSettings
from diptych.models.experts import Experts, load_experts
from support.made_adapters import noise
from support.painting import largest_difference, paint

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "up_blocks.0.resnets.0.conv1"
ENCODER = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def experts(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    cache_dir = tmp_path_factory.mktemp("cache")
    return load_experts(str(nano_pair / "base"), str(nano_pair / "refiner"), cache_dir=cache_dir)


@pytest.fixture
def executor(experts: Experts) -> DeviceExecutor:
    return DeviceExecutor(experts)


@pytest.fixture(scope="module")
def weights(experts: Experts) -> Callable[[Expert, Component, str], torch.Tensor]:
    """Return a look-up of the experts' weights by the names adapters give them."""

    def weight_of(expert: Expert, part: Component, module: str) -> torch.Tensor:
        loaded = {Expert(own.name): own for own in experts.hosted}[expert]
        networks = {encoder.name: encoder.module for encoder in loaded.text.encoders}
        network = loaded.unet.module if part is Component.UNET else networks[str(part)]
        found = dict(network.named_modules())
        weight = found.get(module, found.get(module.removeprefix("text_model."))).weight  # type: ignore[union-attr]
        assert isinstance(weight, torch.Tensor)
        return weight

    return weight_of


def lora(
    *shape: int, rank: int = 4, seed: int = 0, size: float = 0.3, magnitude: Magnitude | None = None
) -> LowRank:
    """Return an update of a weight of ``shape``."""
    fan_in = int(np.prod(shape[1:]))
    return LowRank(
        down=noise(rank, *shape[1:], seed=seed) / fan_in**0.5,
        up=size * noise(shape[0], rank, seed=seed + 1) / rank**0.5,
        alpha=rank / 2,
        magnitude=magnitude,
    )


def adapter(seed: int = 0, rank: int = 4, stage: Stage = Stage.BOTH, **parts: object) -> Adapter:
    """Return a LoRA of attention, convolution and both text encoders."""
    updates = {
        Target(component=Component.UNET, module=ATTENTION): lora(96, 96, seed=seed, rank=rank),
        Target(component=Component.UNET, module=CROSS): lora(160, 128, seed=seed + 2, rank=rank),
        Target(component=Component.UNET, module=CONV): lora(
            160, 320, 3, 3, seed=seed + 4, rank=rank
        ),
        Target(component=Component.TEXT_ENCODER, module=ENCODER): lora(64, 64, seed=seed + 6),
        Target(component=Component.TEXT_ENCODER_2, module=ENCODER): lora(64, 64, seed=seed + 8),
    }
    return replace(Adapter(targets=updates, made_for=MadeFor(family="nano", stage=stage)), **parts)  # type: ignore[arg-type]


def dora(executor_weights: Callable[[Expert, Component, str], torch.Tensor], seed: int) -> Adapter:
    """Return a DoRA of one attention layer."""
    weight = executor_weights(Expert.BASE, Component.UNET, ATTENTION)
    norms = weight.norm(dim=1) * (1 + 0.2 * noise(96, seed=seed))
    update = lora(96, 96, seed=seed, magnitude=Magnitude(norms=norms, per_input=False))
    target = Target(component=Component.UNET, module=ATTENTION)
    return Adapter(targets={target: update}, made_for=MadeFor(stage=Stage.BASE))


def learned(seed: int) -> Adapter:
    """Return a token that both encoders learned."""
    parts = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
    vectors = {part: noise(2, 64, seed=seed + n) for n, part in enumerate(parts)}
    return Adapter(
        tokens={"<s0>": LearnedToken(vectors=vectors)}, made_for=MadeFor(stage=Stage.BOTH)
    )


def use(name: str, **settings: object) -> AdapterUse:
    return replace(AdapterUse(digest=f"sha256:{name}", name=name), **settings)  # type: ignore[arg-type]


def request(*uses: AdapterUse, **settings: object) -> ImageRequest:
    stage = StageSettings(prompt="a red <s0> on the left", guidance_scale=3.0)
    plain = ImageRequest(
        request_id="a",
        width=128,
        height=128,
        seed=11,
        num_steps=4,
        boundary=0.5,
        base=stage,
        refiner=stage,
        adapters=uses,
    )
    return replace(plain, **settings)  # type: ignore[arg-type]


def attach(
    executor: DeviceExecutor, requests: Sequence[ImageRequest], adapters: dict[str, Adapter]
) -> None:
    """Put what ``requests`` need on the device."""
    units = {unit: uses for each in requests for unit, uses in units_of(each).items()}
    for unit, uses in units.items():
        prepared = executor.bind(uses, [adapters[own.name] for own in uses])
        executor.attach(unit, prepared)


def detach(executor: DeviceExecutor, requests: Sequence[ImageRequest]) -> None:
    for unit in {unit for each in requests for unit in units_of(each)}:
        executor.detach(unit)


@contextmanager
def in_the_weights(
    weights: Callable[[Expert, Component, str], torch.Tensor],
    uses: Sequence[tuple[Adapter, dict[str, float]]],
) -> Iterator[None]:
    """Add updates to the weights in float64, each network at its own scale; then put them back."""
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    for own, scales in uses:
        for target, update in own.targets.items():
            experts = [e for e in Expert if own.made_for.stage in (Stage(str(e)), Stage.BOTH)]
            if target.component is Component.TEXT_ENCODER and Expert.BASE not in experts:
                continue
            shared = target.component is not Component.UNET
            for expert in experts[:1] if shared else experts:
                weight = weights(expert, target.component, target.module)
                saved.append((weight, weight.clone()))
                scale = update.scale * scales.get("text" if shared else str(expert), 1.0)
                product = update.up.double() @ update.down.double().flatten(1)
                with torch.no_grad():
                    changed = weight.double() + scale * product.view(weight.shape)
                    if update.magnitude is not None:
                        norms = changed.flatten(1).norm(dim=1)
                        changed *= (update.magnitude.norms.double() / norms)[:, None]
                    weight.copy_(changed)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in reversed(saved):
                weight.copy_(before)


def plain(each: ImageRequest) -> ImageRequest:
    return replace(each, adapters=())


def test_an_adapter_acts_as_if_it_were_in_the_weights(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    own, each = adapter(), request(use("a", scale=0.7))
    executor = DeviceExecutor(experts)
    attach(executor, [each], {"a": own})
    (ours,) = paint(executor, [each])
    scales = {"base": 0.7, "refiner": 0.7, "text": 0.7}
    with in_the_weights(weights, [(own, scales)]):
        (expected,) = paint(DeviceExecutor(experts), [plain(each)])
    (without,) = paint(DeviceExecutor(experts), [plain(each)])
    assert largest_difference([ours], [expected]) <= 1e-3
    assert largest_difference([without], [expected]) > 0.05


def test_several_adapters_add_up(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    one, two = adapter(seed=0), adapter(seed=50, rank=9)
    each = request(use("one", scale=0.5), use("two", scale=-0.25))
    executor = DeviceExecutor(experts)
    attach(executor, [each], {"one": one, "two": two})
    (ours,) = paint(executor, [each])
    half, less = (dict.fromkeys(("base", "refiner", "text"), s) for s in (0.5, -0.25))
    with in_the_weights(weights, [(one, half), (two, less)]):
        (expected,) = paint(DeviceExecutor(experts), [plain(each)])
    assert largest_difference([ours], [expected]) <= 1e-3


def test_a_stage_may_have_a_scale_of_its_own(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    own = adapter()
    parts = (("base", 0.5), ("refiner", 0.0), ("text_encoder", 0.0), ("text_encoder_2", 0.0))
    each = request(use("a", scale=0.8, parts=parts))
    executor = DeviceExecutor(experts)
    attach(executor, [each], {"a": own})
    (ours,) = paint(executor, [each])
    with in_the_weights(weights, [(own, {"base": 0.4, "refiner": 0.0, "text": 0.0})]):
        (expected,) = paint(DeviceExecutor(experts), [plain(each)])
    assert largest_difference([ours], [expected]) <= 1e-3


def test_dora_acts_as_if_it_were_in_the_weights(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    own, each = dora(weights, seed=3), request(use("d", scale=0.6, dora=True))
    executor = DeviceExecutor(experts)
    attach(executor, [each], {"d": own})
    (ours,) = paint(executor, [each])
    with in_the_weights(weights, [(own, {"base": 0.6})]):
        (expected,) = paint(DeviceExecutor(experts), [plain(each)])
    assert largest_difference([ours], [expected]) <= 1e-3


def unlike(
    weights: Callable[[Expert, Component, str], torch.Tensor],
) -> tuple[list[ImageRequest], dict[str, Adapter]]:
    """Return requests with unlike adapter sets, and the adapters."""
    adapters = {
        "small": adapter(seed=1, rank=4),
        "wide": adapter(seed=20, rank=40),
        "base": adapter(seed=30, rank=8, stage=Stage.BASE),
        "dora": dora(weights, seed=40),
        "token": learned(seed=50),
        "other": learned(seed=60),
    }
    sets = [
        (),
        (use("small"),),
        (use("small", scale=0.3), use("wide", scale=0.5)),
        (use("base", scale=1.5), use("token")),
        (use("dora", dora=True, scale=0.9), use("small", scale=-1.0)),
        (use("other"),),
        (use("wide", parts=(("refiner", 0.5), ("unet.down", 0.2))),),
    ]
    return [
        request(*own, seed=number, num_steps=3 + number % 2, boundary=0.5)
        for number, own in enumerate(sets)
    ], adapters


def test_unlike_sets_together_equal_each_alone(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    requests, adapters = unlike(weights)
    executor = DeviceExecutor(experts)
    attach(executor, requests, adapters)
    together = paint(executor, requests)
    alone = [paint(executor, [each])[0] for each in requests]
    assert largest_difference(together, alone) <= 1e-4


def test_adapters_do_not_meet_each_others_cached_texts(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    requests, adapters = unlike(weights)
    loaded = {Expert(own.name): own for own in experts.hosted}
    attached, prompts = AttachedAdapters(loaded, num_lines=128), LocalPrompts(MemoryTier(1 << 26))
    for unit, uses in {u: own for each in requests for u, own in units_of(each).items()}.items():
        attached.attach(unit, attached.bind(uses, [adapters[own.name] for own in uses]))
    expected = [encode_requests([each], loaded, attached)[0] for each in requests]
    for is_repeated in (False, True):
        for each, other in zip(requests, expected, strict=True):
            (found,) = encode_requests([each], loaded, attached, prompts)
            assert isinstance(found, RequestConditions)
            assert isinstance(other, RequestConditions)
            assert not (is_repeated and found.num_texts_encoded)
            for expert, conditions in other.by_expert.items():
                assert torch.equal(found.by_expert[expert].hidden, conditions.hidden)


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 0.5},
        {"digest": "sha256:b"},
        {"parts": (("text_encoder", 0.5),)},
        {"parts": (("base", 0.5),)},
    ],
)
def test_whatever_an_adapter_does_to_texts_is_in_its_name(
    experts: Experts, changed: dict[str, object]
) -> None:
    one, other = request(use("a")), request(use("a", **changed))
    attached = AttachedAdapters({Expert(own.name): own for own in experts.hosted}, num_lines=16)
    for unit, uses in {**units_of(one), **units_of(other)}.items():
        attached.attach(unit, attached.bind(uses, [adapter()]))
    variants = [attached.text_variant(each, Expert.BASE) for each in (one, other)]
    first, second = (None if v is None else v.identity for v in variants)
    assert first
    assert second
    assert first != second


def test_swaps_leave_no_trace(
    experts: Experts, weights: Callable[[Expert, Component, str], torch.Tensor]
) -> None:
    executor = DeviceExecutor(experts)
    modules = [own.unet.module for own in experts.hosted]
    modules += [encoder.module for own in experts.hosted for encoder in own.text.encoders]
    before = [{name: p.clone() for name, p in m.named_parameters()} for m in modules]
    (first,) = paint(executor, [request()])
    requests, adapters = unlike(weights)
    for _ in range(3):
        attach(executor, requests, adapters)
        paint(executor, requests)
        detach(executor, requests)
    assert largest_difference([first], paint(executor, [request()])) == 0.0
    for module, weights_before in zip(modules, before, strict=True):
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, weights_before[name])


def test_an_adapter_that_overflows_spoils_no_other(executor: DeviceExecutor) -> None:
    requests = [request(use("a")), request(use("huge")), request()]
    own = adapter(stage=Stage.BASE)
    huge = {target: replace(update, up=update.up * 1e30) for target, update in own.targets.items()}
    attach(executor, requests, {"a": own, "huge": replace(own, targets=huge)})
    sound, spoilt, bare = paint(executor, requests)
    assert not np.isfinite(spoilt).all()
    alone = [paint(executor, [requests[place]])[0] for place in (0, 2)]
    assert largest_difference([sound, bare], alone) <= 1e-4


def test_an_adapter_beyond_the_networks_dtype_is_refused(executor: DeviceExecutor) -> None:
    own = adapter()
    huge = {target: replace(update, alpha=1e40) for target, update in own.targets.items()}
    with pytest.raises(AdapterInvalid, match=r"adapter huge: .* is beyond what torch\.float32"):
        executor.bind([use("huge")], [replace(own, targets=huge)])


def test_a_layer_that_is_not_there_is_refused(executor: DeviceExecutor) -> None:
    target = Target(component=Component.UNET, module="down_blocks.9.attentions.0.proj_in")
    own = Adapter(targets={target: lora(96, 96)}, made_for=MadeFor(stage=Stage.BASE))
    with pytest.raises(AdapterMismatch, match=r"down_blocks\.9"):
        executor.bind([use("a")], [own])


def test_a_layer_of_another_shape_is_refused(executor: DeviceExecutor) -> None:
    target = Target(component=Component.UNET, module=ATTENTION)
    own = Adapter(targets={target: lora(96, 64)}, made_for=MadeFor(stage=Stage.BASE))
    with pytest.raises(AdapterMismatch, match=r"\[96, 64\], the model's \[96, 96\]"):
        executor.bind([use("a")], [own])


def test_learned_tokens_are_counted_as_host_memory(executor: DeviceExecutor) -> None:
    tokens_alone = executor.bind([use("a")], [learned(0)])
    assert (tokens_alone.num_lines, tokens_alone.token_bytes) == (0, 2 * 2 * 64 * 4)
    assert tokens_alone.size_bytes == tokens_alone.token_bytes
    both = executor.bind([use("a")], [adapter(tokens=learned(0).tokens)])
    without = executor.bind([use("a")], [adapter()])
    assert both.size_bytes == without.size_bytes + both.token_bytes
    assert without.token_bytes == 0


def test_one_token_of_two_adapters_is_refused_where_a_prompt_has_it(
    executor: DeviceExecutor,
) -> None:
    each = request(use("token"), use("other"))
    attach(executor, [each], {"token": learned(1), "other": learned(2)})
    silent = replace(each, base=StageSettings(prompt="a cat"), refiner=None)
    refused, taken = executor.encode([each, silent])
    assert isinstance(refused, InvalidRequest)
    assert "token and other both have a token '<s0>'" in str(refused)
    assert not isinstance(taken, DiptychError)
