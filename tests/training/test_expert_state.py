"""The state of every kind of expert, there and back, on the nano model itself."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from diptych.embeddings.encoders import LatentSpace
from diptych.errors import CheckpointInvalid
from diptych.training.checkpoints import Checkpoint
from diptych.training.expert_state import RESULT, ExpertState
from diptych.training.loop import ExpertLoop
from diptych.training.spec import (
    AdapterSpec,
    EmaSpec,
    JobSpec,
    ModelSpec,
    OptimizerSpec,
    TextEncoderSpec,
)
from diptych.training.trainables.loading import load_trainable
from support.fed import FEED, a_feeder, some_plans
from support.looping import PLAN, a_job, a_loop, checkpoints_in
from support.memory_embeddings import ENCODERS
from support.small_trainable import SmallTrainable

NANO = replace(
    ENCODERS,
    window_tokens=77,
    hidden_width=128,
    pooled_width=64,
    latents=LatentSpace(channels=4, pixels_per_latent=8, scaling_factor=0.5),
)
ACCUMULATING = {"num_accumulated": 2}
KINDS = {
    "lora": a_job(num_steps=4, adapter=AdapterSpec(rank=4, dropout=0.1)),
    "dora": a_job(num_steps=4, method="dora", adapter=AdapterSpec(rank=4), run=ACCUMULATING),
    "full": a_job(num_steps=4, method="full", run={"ema": EmaSpec(decay=0.5)}),
    "text encoder lora": a_job(
        num_steps=4, text_encoders=TextEncoderSpec(method="lora", rank=4), run=ACCUMULATING
    ),
}


def a_nano_loop(spec: JobSpec, data: Path, folder: Path, *, stop_after: int = 0) -> ExpertLoop:
    """Train the nano base as ``spec`` says, from the latest checkpoint in ``folder``."""
    spec = replace(spec, model=ModelSpec(source="nano"))
    trainable = load_trainable(spec, PLAN, device="cpu", cache_dir=folder)
    loop = a_loop(spec, folder, trainable=trainable, stop_after=stop_after)
    found = checkpoints_in(folder).latest()
    if found is not None:
        loop.state.restore(found)
    config = replace(
        FEED,
        encoders=NANO,
        trains_text=trainable.trains_text,
        num_accumulated=spec.run.num_accumulated,
        num_workers=2,
    )
    feeder = a_feeder(some_plans(data), config, num_epochs=100)
    with closing(feeder.steps(loop.state.position)) as steps:
        loop.run(steps)
    return loop


def same(one: Checkpoint, other: Checkpoint) -> bool:
    assert one.tensors.keys() == other.tensors.keys()
    return one.values == other.values and all(
        held.equal(other.tensors[part][name])
        for part, tensors in one.tensors.items()
        for name, held in tensors.items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    spec, data = KINDS[kind], tmp_path / "data"
    whole = a_nano_loop(spec, data, tmp_path / "whole")
    a_nano_loop(spec, data, tmp_path / "cut", stop_after=2)
    resumed = a_nano_loop(spec, data, tmp_path / "cut")
    assert same(whole.state.checkpoint(), resumed.state.checkpoint())
    weights = whole.state.checkpoint().tensors["weights"]
    started = load_trainable(spec, PLAN, device="cpu", cache_dir=tmp_path).state()
    assert any(not weights[name].equal(before) for name, before in started.items())


def a_state(spec: JobSpec, *, num_steps: int = 8) -> ExpertState:
    return ExpertState(
        SmallTrainable(),
        spec,
        PLAN,
        place=0,
        num_steps=num_steps,
        accelerator=Accelerator(cpu=True),
    )


def finished(spec: JobSpec) -> tuple[ExpertState, dict[str, Tensor]]:
    state = a_state(spec, num_steps=1)
    for number in range(3):
        for parameter in state.parameters:
            parameter.grad = torch.full_like(parameter, number - 0.5)
        state.optimizer.step()
    state.step = 1
    if state.ema is not None:
        state.ema.update(1)
    return state, dict(state.checkpoint().tensors.get(RESULT, {}))


@pytest.mark.parametrize(
    "spec",
    [
        a_job(run={"ema": EmaSpec(decay=0.5)}),
        a_job(optimizer=OptimizerSpec(name="schedule_free_adamw")),
    ],
    ids=["moving average", "schedule free"],
)
def test_what_is_exported_of_averaged_weights_is_their_average(spec: JobSpec) -> None:
    state, result = finished(spec)
    weights = state.trainable.state()
    assert result.keys() == weights.keys()
    assert any(not result[name].equal(weights[name]) for name in weights)


def test_weights_that_are_not_averaged_are_kept_once() -> None:
    assert finished(a_job())[1] == {}


def test_learning_rates_are_told_by_group() -> None:
    state = a_state(a_job(optimizer=OptimizerSpec(name="prodigy", learning_rate=1.0)))
    # Prodigy's own factor begins at d0.
    assert state.learning_rates == {"unet": 1e-6, "text_encoder": 1e-6}


def test_a_checkpoint_without_a_part_is_refused() -> None:
    found = a_state(a_job()).checkpoint()
    parts = {name: part for name, part in found.tensors.items() if name != "optimizer"}
    with pytest.raises(CheckpointInvalid, match="optimizer"):
        a_state(a_job()).restore(replace(found, tensors=parts))


def test_the_number_of_threads_is_as_it_was() -> None:
    before = torch.get_num_threads()
    found = a_state(a_job()).checkpoint()
    a_state(a_job()).restore(replace(found, values={**found.values, "num_threads": 2}))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
