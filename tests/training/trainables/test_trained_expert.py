"""The state of what is trained, and the model without it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.errors import CheckpointInvalid
from diptych.models.experts import load_experts
from diptych.training.spec import AdapterSpec, TextEncoderSpec
from diptych.training.trainables.trained_expert import TEXTS
from support.trained import batch_of, load, one_step
from support.trained_jobs import job

Small = dict[str, Any]
TEXT_LORA = TextEncoderSpec(method="lora", rank=2)


@pytest.mark.parametrize("changes", [{"text_encoders": TEXT_LORA}, {"method": "full"}])
def test_a_state_brings_everything_back_to_the_bit(
    changes: dict[str, Any], small: Small, tmp_path: Path
) -> None:
    first, second = (
        load(job(run={"precision": "bf16", "seed": seed}, **small, **changes), tmp_path)
        for seed in (1, 2)
    )
    batch = batch_of("a cat", None) if first.trains_text else batch_of()
    one_step(first, batch)
    state = first.state()
    one_step(first, batch)
    assert {own.dtype for own in state.values()} == {torch.float32}
    second.load_state(state)
    first.load_state(state)
    assert torch.equal(first.predict(*batch), second.predict(*batch))
    assert torch.equal(one_step(first, batch), one_step(second, batch))


def test_a_state_is_what_is_trained_only(small: Small, tmp_path: Path) -> None:
    trained = load(job(**small), tmp_path)
    assert trained.state()
    assert all(".lora_" in name for name in trained.state())


def test_a_state_of_something_else_is_refused(small: Small, tmp_path: Path) -> None:
    ranks = [load(job(**small, adapter=AdapterSpec(rank=rank)), tmp_path) for rank in (2, 4)]
    with pytest.raises(CheckpointInvalid, match=r"lora_A.*\(2, 32\), expected \(4, 32\)"):
        ranks[1].load_state(ranks[0].state())


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_without_its_update_the_model_is_the_one_before_training(
    method: Any, small: Small, tmp_path: Path
) -> None:
    adapter = AdapterSpec(dropout=0.5, targets="linear_conv")
    spec = job(**small, method=method, adapter=adapter, text_encoders=TEXT_LORA)
    trained = load(spec, tmp_path)
    batch = batch_of("a cat", None)
    with trained.without_update():
        before = trained.predict(*batch)
    one_step(trained, batch)
    one_step(trained, batch)
    with trained.without_update():
        after = trained.predict(*batch)
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert not torch.equal(trained.predict(*batch), before)
    assert all(one.requires_grad for group in trained.groups for one in group.parameters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_before_the_first_step_it_predicts_what_is_served(
    method: Any, precision: str, small: Small, tmp_path: Path
) -> None:
    trained = load(job(run={"precision": precision}, **small, method=method), tmp_path)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    source = small["model"].source
    unet = load_experts(source, None, dtype=dtype, cache_dir=tmp_path).hosted[0].unet
    noisy, t, told = batch_of()
    assert told.prompt_embeds is not None
    assert told.pooled is not None
    served = unet.predict(
        noisy,
        t.float(),
        hidden=told.prompt_embeds.to(dtype),
        pooled=told.pooled.to(dtype),
        time_ids=told.time_ids,
    )
    tolerance = {"fp32": 1e-5, "bf16": 0.0 if method == "full" else 0.02}[precision]
    predicted = trained.predict(noisy, t, told)
    assert predicted.dtype is torch.float32
    torch.testing.assert_close(predicted, served, rtol=0.0, atol=tolerance)


def test_predicts_with_what_the_loop_made_of_its_modules(small: Small, tmp_path: Path) -> None:
    trained = load(job(**small), tmp_path)
    names = trained.state().keys()
    trained.modules = torch.nn.Sequential(torch.nn.Linear(1, 1), trained.modules)
    trained.modules.forward = lambda *_: torch.ones(1)  # type: ignore[method-assign]
    assert trained.predict(*batch_of()) == 1.0
    assert trained.state().keys() == names


def test_texts_that_are_fixed_are_read_as_they_were_taught_and_not_trained(
    small: Small, tmp_path: Path
) -> None:
    spec = job(**small, text_encoders=TEXT_LORA)
    taught, trained = load(spec, tmp_path), load(spec, tmp_path)
    batch = batch_of("a cat", "a red circle")
    one_step(taught, batch)
    trained.fix_texts(taught.state())
    assert [group.name for group in trained.groups] == ["unet"]
    one_step(trained, batch)
    assert not any(name.startswith(TEXTS) for name in trained.state())
    updates = [dict(one.network.named_parameters()) for one in (trained, taught)]
    names = [name for name in taught.state() if name.startswith(TEXTS)]
    assert all(torch.equal(updates[0][name], updates[1][name]) for name in names)


def test_updates_of_other_encoders_are_not_fixed(small: Small, tmp_path: Path) -> None:
    trained = load(job(**small, text_encoders=TEXT_LORA), tmp_path)
    with pytest.raises(CheckpointInvalid, match="not as the other expert's"):
        trained.fix_texts({})
