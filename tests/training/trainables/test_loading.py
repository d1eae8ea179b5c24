"""What a job trains: its weights by group, in float32, and nothing else."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from diptych.errors import CheckpointInvalid, InvalidRequest
from diptych.models.experts import open_expert
from diptych.nano.pair import expert_path
from diptych.training.spec import AdapterSpec, ModelSpec, OptimizerSpec, TextEncoderSpec
from diptych.training.trainables.loading import check_written
from support.small_experts import small_unet
from support.trained import batch_of, load, one_step
from support.trained_jobs import job

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "dora": {"method": "dora"},
    "full": {"method": "full"},
    "text lora": {"method": "lora", "text_encoders": TextEncoderSpec(method="lora", rank=2)},
    "text full": {"method": "full", "text_encoders": TextEncoderSpec(method="full")},
}
Small = dict[str, Any]
BOTH = ("unet", "text_encoder", "text_encoder_2")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_gradients_and_moments_are_float32(kind: str, small: Small, tmp_path: Path) -> None:
    trained = load(job(**small, run={"precision": "bf16"}, **KINDS[kind]), tmp_path)
    batch = batch_of("a cat", None) if trained.trains_text else batch_of()
    parameters = [one for group in trained.groups for one in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    torch.autograd.backward(trained.predict(*batch).square().mean())
    assert {None if one.grad is None else one.grad.dtype for one in parameters} == {torch.float32}
    optimizer.step()
    moments = [own["exp_avg"] for own in optimizer.state.values()]
    assert {one.dtype for one in (*parameters, *moments)} == {torch.float32}


@pytest.mark.parametrize("kind", ["dora", "text full"])
def test_everything_that_is_trained_is_in_one_group_and_learns(
    kind: str, small: Small, tmp_path: Path
) -> None:
    trained = load(job(**small, **KINDS[kind]), tmp_path)
    names = tuple(group.name for group in trained.groups)
    assert names == (BOTH if trained.trains_text else BOTH[:1])
    grouped = [id(one) for group in trained.groups for one in group.parameters]
    learning = [id(one) for one in trained.network.parameters() if one.requires_grad]
    assert grouped == learning
    batch = batch_of("a cat", "a red circle") if trained.trains_text else batch_of()
    before = one_step(trained, batch)
    assert one_step(trained, batch) < before


def test_frozen_weights_are_held_in_the_compute_dtype(small: Small, tmp_path: Path) -> None:
    trained = load(job(**small, run={"precision": "bf16"}), tmp_path)
    frozen = {one.dtype for one in trained.network.parameters() if not one.requires_grad}
    assert frozen == {torch.bfloat16}


def test_groups_have_their_own_rates_and_decays(small: Small, tmp_path: Path) -> None:
    texts = TextEncoderSpec(method="lora", learning_rate=1e-5, weight_decay=0.5)
    optimizer = OptimizerSpec(learning_rate=1e-3, weight_decay=0.1)
    trained = load(job(**small, text_encoders=texts, optimizer=optimizer), tmp_path)
    rates = {group.name: (group.learning_rate, group.weight_decay) for group in trained.groups}
    assert rates == dict(zip(BOTH, [(1e-3, 0.1), (1e-5, 0.5), (1e-5, 0.5)], strict=True))


def test_text_encoders_take_the_optimizer_s_rate_where_they_have_none(
    small: Small, tmp_path: Path
) -> None:
    optimizer = OptimizerSpec(learning_rate=3e-4)
    texts = TextEncoderSpec(method="lora")
    trained = load(job(**small, text_encoders=texts, optimizer=optimizer), tmp_path)
    assert {group.learning_rate for group in trained.groups} == {3e-4}


@pytest.mark.parametrize("kind", ["lora", "text lora"])
def test_checkpointing_changes_no_gradient(kind: str, small: Small, tmp_path: Path) -> None:
    gradients = []
    for is_on in (True, False):
        spec = job(**small, run={"gradient_checkpointing": is_on}, **KINDS[kind])
        trained = load(spec, tmp_path)
        for group in trained.groups:
            for one in group.parameters:
                torch.nn.init.normal_(one, generator=torch.Generator().manual_seed(3))
        batch = batch_of("a cat", None) if trained.trains_text else batch_of()
        torch.autograd.backward(trained.predict(*batch).square().mean())
        gradients.append([one.grad for group in trained.groups for one in group.parameters])
    assert gradients[0]
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("is_on", [True, False])
def test_checkpointing_computes_blocks_again(is_on: bool, small: Small, tmp_path: Path) -> None:
    spec = job(**small, run={"gradient_checkpointing": is_on}, **KINDS["text lora"])
    trained = load(spec, tmp_path)
    counts: Counter[str] = Counter()
    for name, module in trained.modules.named_modules():
        if name.endswith(("attn1.to_q", "layers.0.self_attn.q_proj")):
            module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    torch.autograd.backward(trained.predict(*batch_of("a cat", None)).square().mean())
    assert {"unet" in name for name in counts} == {True, False}
    assert set(counts.values()) == {2 if is_on else 1}


@pytest.mark.parametrize(("dropout", "is_same"), [(0.0, True), (0.5, False)])
def test_what_an_adapter_drops_is_drawn_anew(
    dropout: float, is_same: bool, small: Small, tmp_path: Path
) -> None:
    trained = load(job(**small, adapter=AdapterSpec(rank=4, dropout=dropout)), tmp_path)
    for one in trained.groups[0].parameters:
        torch.nn.init.normal_(one, generator=torch.Generator().manual_seed(3))
    one, other = (trained.predict(*batch_of()) for _ in range(2))
    assert torch.equal(one, other) is is_same


def test_attention_is_torch_s_own(small: Small, tmp_path: Path) -> None:
    unet = load(
        job(
            **small,
        ),
        tmp_path,
    ).network.unet
    assert {type(own) for own in unet.attn_processors.values()} == {AttnProcessor2_0}


def test_the_same_seed_begins_with_the_same_factors_and_the_global_generator_stays(
    small: Small, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    states = [load(job(**small, run={"seed": seed}), tmp_path).state() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_gaussian_init_is_gaussian(small: Small, tmp_path: Path) -> None:
    plain, gaussian = (
        load(job(**small, adapter=AdapterSpec(rank=4, init=init)), tmp_path).state()
        for init in ("default", "gaussian")
    )
    assert plain.keys() == gaussian.keys()
    drawn = torch.cat([own.flatten() for name, own in gaussian.items() if "lora_A" in name])
    assert drawn.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert drawn.abs().max() > 3.5 / 4


def test_nano_is_each_expert_s_own_model(tmp_path: Path) -> None:
    spec = job(model=ModelSpec(source="nano"), stage="both", boundary=0.65)
    sources = [load(spec, tmp_path, place=place).facts.opened.checkpoint.source for place in (0, 1)]
    assert [Path(source).name for source in sources] == ["base", "refiner"]


def test_of_a_refiner_only_the_second_encoder_is_trained(small: Small, tmp_path: Path) -> None:
    folder = tmp_path / "refiner"
    shutil.copytree(small["model"].source, folder)
    index = folder / "model_index.json"
    without = {"text_encoder": [None, None], "tokenizer": [None, None]}
    index.write_text(json.dumps(json.loads(index.read_text()) | without))
    narrow = small_unet(cross_attention_dim=64)
    narrow.save_pretrained(folder / "unet")
    spec = job(model=ModelSpec(source=str(folder)), text_encoders=TextEncoderSpec(method="full"))
    trained = load(spec, tmp_path)
    assert [group.name for group in trained.groups] == ["unet", "text_encoder_2"]
    one_step(trained, batch_of("a cat", None))


def test_a_single_file_is_not_fully_trained(tmp_path: Path) -> None:
    spec = job(model=ModelSpec(source="model.safetensors"), method="full")
    checkpoint = open_expert(str(expert_path("base")), cache_dir=tmp_path).checkpoint
    with pytest.raises(CheckpointInvalid, match="no whole folder in diffusers' layout"):
        check_written(spec, replace(checkpoint, folder=None))
    check_written(job(), replace(checkpoint, folder=None))
    check_written(spec, checkpoint)


def test_a_pattern_that_matches_nothing_is_refused(small: Small, tmp_path: Path) -> None:
    adapter = AdapterSpec(rank_pattern={"attn9": 4}, alpha_pattern={"to_q": 1.0})
    with pytest.raises(InvalidRequest, match=r"adapter\.rank_pattern\.attn9"):
        load(job(**small, adapter=adapter), tmp_path)
