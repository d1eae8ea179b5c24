"""A zip's networks share the served weights, and its prompts leave the encoders alone."""

from pathlib import Path

import pytest
import torch

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Target
from diptych.inference.conditions import Conditions
from diptych.inference.zip_networks import Weighted, conditions_of, private_network
from diptych.models.experts import Expert, load_experts
from diptych.models.text_encoders import PromptRow
from diptych.models.text_memory import remember_text
from support.made_adapters import noise
from support.small_experts import make_expert

LAYER = Target(
    component=Component.TEXT_ENCODER, module="text_model.encoder.layers.0.self_attn.q_proj"
)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Expert:
    """Return an expert around a small random UNet."""
    folder = tmp_path_factory.mktemp("expert")
    loaded = load_experts(str(make_expert(folder / "base")), None, cache_dir=Path(folder)).base
    assert loaded is not None
    return loaded


def told(expert: Expert, prompt: str = "x", **given: list[Weighted]) -> Conditions:
    tokens = {"<s0>": LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, width(expert))})}
    updates = {LAYER: given.get("updates", [])}
    return conditions_of(expert, prompt, Adapter(tokens=tokens), updates, size=64, field="prompts")


def width(expert: Expert) -> int:
    return expert.text.encoders[0].hidden_dim


def update(expert: Expert) -> LowRank:
    return LowRank(down=noise(2, width(expert)), up=noise(width(expert), 2), alpha=2.0)


def test_weights_are_shared_and_modules_are_not(expert: Expert) -> None:
    own = private_network(expert, None).unet
    served = expert.unet.module
    shared = dict(served.named_parameters())
    assert all(p.data_ptr() == shared[name].data_ptr() for name, p in own.named_parameters())
    assert not set(own.modules()) & set(served.modules())


def test_what_the_served_network_remembers_takes_no_part(expert: Expert) -> None:
    remember_text(expert.unet.module)
    own = private_network(expert, None).unet
    processors = set(expert.unet.module.attn_processors.values())
    assert not processors & set(own.attn_processors.values())


def test_it_predicts_what_the_served_network_does(expert: Expert) -> None:
    row = told(expert)
    row = Conditions(hidden=row.hidden[:1], pooled=row.pooled[:1], time_ids=row.time_ids[:1])
    x = noise(1, 4, 8, 8)
    with torch.no_grad():
        found = private_network(expert, None).predict(x, 500, row, shows=None)
        served = expert.unet.predict(
            x,
            torch.tensor([500.0]),
            hidden=row.hidden,
            pooled=row.pooled,
            time_ids=row.time_ids,
        )
    assert torch.allclose(found, served, atol=1e-3 * float(served.abs().max()))


def test_without_updates_a_prompt_is_as_served(expert: Expert) -> None:
    (row,) = expert.text.encode([PromptRow(text="x")])
    assert torch.equal(told(expert).hidden[:1], row.hidden)


def test_updates_reach_the_encoder_in_proportion(expert: Expert) -> None:
    plain, once, again = (
        told(expert, updates=given).hidden[0]
        for given in ([], [(update(expert), 0.5)], [(update(expert), 0.25)] * 2)
    )
    assert not torch.allclose(plain, once)
    assert torch.allclose(once, again, atol=1e-5)


def test_the_encoders_are_left_as_they_were(expert: Expert) -> None:
    before = told(expert).hidden
    told(expert, updates=[(update(expert), 1.0)])
    assert torch.equal(told(expert).hidden, before)


def test_learned_tokens_are_understood(expert: Expert) -> None:
    assert not torch.equal(told(expert, "a <s0>").hidden, told(expert, "a").hidden)


def test_what_is_told_can_take_part_in_training(expert: Expert) -> None:
    assert not told(expert).hidden.is_inference()
