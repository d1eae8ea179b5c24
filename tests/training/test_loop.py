"""The loop of one expert: what a step does, and that stopping leaves no trace."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from typing_extensions import override

from diptych.errors import NonFiniteLoss, ServerUnreachable, StoreFull, TimestepOutOfRange
from diptych.training.events import EventKind
from diptych.training.feeding import FedStep
from diptych.training.loop import LoopConfig
from diptych.training.objective import Objective
from diptych.training.spec import EmaSpec, LrScheduleSpec, ObjectiveSpec, OptimizerSpec
from support.fed import FEED, a_feeder, some_plans
from support.full_disk import files_no_larger_than
from support.looping import PLAN, SCHEDULE, Ears, Stops, a_job, a_loop, checkpoints_in, trained
from support.small_trainable import SmallTrainable

JOBS = {
    "adamw": a_job(),
    "accumulating": a_job(run={"num_accumulated": 3}),
    "averaged": a_job(run={"ema": EmaSpec(decay=0.9)}),
    "warmed up": a_job(lr_schedule=LrScheduleSpec(name="cosine", num_warmup_steps=3)),
    "prodigy": a_job(optimizer=OptimizerSpec(name="prodigy", learning_rate=1.0)),
    "schedule free": a_job(optimizer=OptimizerSpec(name="schedule_free_adamw")),
    "adafactor": a_job(optimizer=OptimizerSpec(name="adafactor")),
    "lion": a_job(optimizer=OptimizerSpec(name="lion")),
    "offset noise": a_job(objective=ObjectiveSpec(noise_offset=0.1, min_snr_gamma=5.0)),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def a_step(data: Path, *, num_accumulated: int = 1) -> FedStep:
    config = replace(FEED, num_accumulated=num_accumulated)
    return next(a_feeder(some_plans(data), config).steps())


@pytest.mark.parametrize(
    ("name", "num_workers"), [*((name, 0) for name in JOBS), ("adamw", 3), ("accumulating", 3)]
)
def test_a_run_that_stopped_is_the_run_that_did_not_bit_for_bit(
    name: str, num_workers: int, data: Path, tmp_path: Path
) -> None:
    spec = JOBS[name]
    whole = trained(spec, data, tmp_path / "whole")
    stopped = a_loop(spec, tmp_path / "cut", stop_after=3)
    trained(spec, data, tmp_path / "cut", num_workers=num_workers, loop=stopped)
    assert stopped.state.step == 3
    resumed = trained(spec, data, tmp_path / "cut", num_workers=num_workers)
    first, second = whole.state.checkpoint(), resumed.state.checkpoint()
    assert (first.step, first.position, first.values) == (
        second.step,
        second.position,
        second.values,
    )
    assert first.tensors.keys() == second.tensors.keys()
    assert all(same(dict(first.tensors[one]), dict(second.tensors[one])) for one in first.tensors)


def test_training_changes_the_weights_and_brings_the_loss_down(data: Path, tmp_path: Path) -> None:
    spec, ears = a_job(num_steps=60, optimizer=OptimizerSpec(learning_rate=1e-2)), Ears()
    trained(spec, data, tmp_path / "x", loop=a_loop(spec, tmp_path / "x", ears=ears))
    losses = [float(str(told["loss"])) for told in ears.of(EventKind.PROGRESS)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


class Told(Objective):
    """An objective that draws the same for every sample, so that batches can be joined."""

    @override
    def draw_timesteps(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.full((num,), 600)

    @override
    def draw_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.ones_like(like)


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [3, 1], [2, 2]], ids=str)
def test_accumulated_batches_equal_one_batch_of_all_their_samples(
    sizes: list[int], data: Path, tmp_path: Path
) -> None:
    plans = some_plans(data, batch_size=4)
    step = next(a_feeder(plans).steps())
    (batch,) = step.batches
    parts, begin = [], 0
    for size in sizes:
        own = slice(begin, begin + size)
        told = batch.conditions
        assert told.prompt_embeds is not None
        assert told.pooled is not None
        conditions = replace(
            told,
            prompt_embeds=told.prompt_embeds[own],
            pooled=told.pooled[own],
            time_ids=told.time_ids[own],
        )
        images = batch.images[own]
        parts.append(
            replace(batch, latents=batch.latents[own], conditions=conditions, images=images)
        )
        begin += size
    found = []
    for given in (step, replace(step, batches=tuple(parts))):
        loop = a_loop(a_job(), tmp_path, trainable=SmallTrainable(dropout=0.0))
        loop._objective = Told(SCHEDULE, ObjectiveSpec(), PLAN.timesteps)
        taken = loop.take(given)
        gradients = [one.grad for one in loop.state.parameters if one.grad is not None]
        found.append((taken.loss, torch.cat([one.flatten() for one in gradients])))
    (loss, gradient), (other_loss, other) = found
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(other, gradient, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_by_their_norm(data: Path, tmp_path: Path) -> None:
    config = LoopConfig(draws=FEED.draws, max_grad_norm=1e-3)
    loop = a_loop(a_job(), tmp_path, config=config)
    taken = loop.take(a_step(data))
    norm = torch.stack([one.grad.norm() for one in loop.state.parameters]).norm()  # type: ignore[union-attr]
    assert taken.grad_norm > 1e-2
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_no_limit_clips_nothing(data: Path, tmp_path: Path) -> None:
    config = LoopConfig(draws=FEED.draws, max_grad_norm=0.0)
    loop = a_loop(a_job(), tmp_path, config=config)
    taken = loop.take(a_step(data))
    norm = torch.stack([one.grad.norm() for one in loop.state.parameters]).norm()  # type: ignore[union-attr]
    assert norm.item() == pytest.approx(taken.grad_norm, rel=1e-5)


def steps_until_the_cache_is_gone(data: Path) -> Iterator[FedStep]:
    """Yield two steps, and then what feeds them does not answer."""
    yield from islice(a_feeder(some_plans(data), num_epochs=9).steps(), 2)
    raise ServerUnreachable(address="cache", detail="gone")


@pytest.mark.parametrize("stop_after", [3, None])
def test_a_stop_that_is_asked_while_no_batch_comes_leaves_a_checkpoint(
    stop_after: int | None, data: Path, tmp_path: Path
) -> None:
    loop = a_loop(a_job(), tmp_path / "x", stop_after=stop_after)
    with nullcontext() if stop_after else pytest.raises(ServerUnreachable):
        assert loop.run(steps_until_the_cache_is_gone(data)) == "preempted"
    found = checkpoints_in(tmp_path / "x").latest()
    assert (found and found.step) == (2 if stop_after else None)


def test_the_rates_that_are_told_are_those_of_the_step(data: Path, tmp_path: Path) -> None:
    spec, ears = a_job(num_steps=2, lr_schedule=LrScheduleSpec(name="linear")), Ears()
    trained(spec, data, tmp_path / "x", loop=a_loop(spec, tmp_path / "x", ears=ears))
    rates = [set(told["lr"].values()) for told in ears.of(EventKind.PROGRESS)]  # type: ignore[attr-defined]
    assert rates == [{1e-4}, {5e-5}]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_step_images_and_a_checkpoint(
    bad: float, data: Path, tmp_path: Path
) -> None:
    loop = a_loop(a_job(), tmp_path / "x")
    steps = list(a_feeder(some_plans(data)).steps())[:4]
    (broken,) = steps[3].batches
    steps[3] = replace(steps[3], batches=(replace(broken, latents=broken.latents * bad),))
    loop._config = replace(loop._config, checkpoint_every=2)
    with pytest.raises(NonFiniteLoss) as caught:
        loop.run(iter(steps))
    assert caught.value.step == 4
    assert caught.value.images == ", ".join(str(image) for image in broken.images)
    found = checkpoints_in(tmp_path / "x").latest()
    assert found is not None
    assert found.step == 2
    assert all(bool(one.isfinite().all()) for one in found.tensors["weights"].values())


def test_the_last_step_before_a_loss_that_is_no_number_is_not_lost(
    data: Path, tmp_path: Path
) -> None:
    loop = a_loop(a_job(), tmp_path / "x")
    step = a_step(data)
    before = loop.state.trainable.state()
    (batch,) = step.batches
    with pytest.raises(NonFiniteLoss):
        loop.take(replace(step, batches=(replace(batch, latents=batch.latents * math.nan),)))
    assert same(loop.state.trainable.state(), before)


def test_a_timestep_of_another_expert_fails_the_job(data: Path, tmp_path: Path) -> None:
    loop = a_loop(a_job(), tmp_path)
    loop._objective = Objective(SCHEDULE, ObjectiveSpec(), range(350))
    with pytest.raises(TimestepOutOfRange):
        loop.take(a_step(data))


def test_every_trained_sample_is_counted_by_its_timestep(data: Path, tmp_path: Path) -> None:
    spec = a_job(num_steps=5, run={"num_accumulated": 2})
    loop = trained(spec, data, tmp_path / "x")
    assert int(loop.state.counts.counts.sum()) == 5 * 2 * 2


def test_progress_tells_loss_rates_and_speed(data: Path, tmp_path: Path) -> None:
    ears, spec = Ears(), a_job(num_steps=2)
    trained(spec, data, tmp_path / "x", loop=a_loop(spec, tmp_path / "x", ears=ears))
    first, _ = ears.of(EventKind.PROGRESS)
    assert (first["expert"], first["step"], first["num_steps"], first["epoch"]) == ("base", 1, 2, 1)
    assert first["lr"] == {"unet": 1e-4, "text_encoder": 1e-4}
    assert all(float(str(first[name])) > 0 for name in ("loss", "grad_norm", "images_per_s"))
    assert ears.num_beats == 2


def test_checkpoints_come_every_so_many_steps_and_at_the_end(data: Path, tmp_path: Path) -> None:
    ears, spec = Ears(), a_job(num_steps=5)
    config = LoopConfig(draws=FEED.draws, checkpoint_every=2)
    loop = a_loop(spec, tmp_path / "x", ears=ears, config=config)
    trained(spec, data, tmp_path / "x", loop=loop)
    told = [(one["step"], one["is_due"]) for one in ears.of(EventKind.CHECKPOINT)]
    assert told == [(2, True), (4, True), (5, True)]
    found = checkpoints_in(tmp_path / "x").latest()
    assert found is not None
    assert found.is_finished


@pytest.mark.parametrize("why", ["stopped", "preempted"])
def test_a_loop_that_is_asked_to_stop_leaves_a_checkpoint(
    why: str, data: Path, tmp_path: Path
) -> None:
    ears = Ears()
    loop = a_loop(a_job(), tmp_path / "x", ears=ears)
    loop._stop_asked = Stops(2, why)  # type: ignore[arg-type]
    assert loop.run(a_feeder(some_plans(data)).steps()) == why
    assert [one["is_due"] for one in ears.of(EventKind.CHECKPOINT)] == [False]
    found = checkpoints_in(tmp_path / "x").latest()
    assert found is not None
    assert (found.step, found.is_finished) == (2, False)


def test_a_disk_that_is_full_keeps_the_checkpoint_before(data: Path, tmp_path: Path) -> None:
    spec = a_job(num_steps=4)
    config = LoopConfig(draws=FEED.draws, checkpoint_every=2)
    loop = a_loop(spec, tmp_path / "x", trainable=SmallTrainable(width=300), config=config)
    steps = a_feeder(some_plans(data)).steps()
    loop.take(next(steps))
    loop.take(next(steps))
    loop.keep()
    loop.take(next(steps))
    with files_no_larger_than(60_000), pytest.raises(StoreFull):
        loop.keep()
    found = checkpoints_in(tmp_path / "x").latest()
    assert found is not None
    assert found.step == 2


def test_regularisation_pulls_towards_the_model_before_training(data: Path, tmp_path: Path) -> None:
    config = LoopConfig(draws=FEED.draws, regularisation_weight=0.5)
    plans = some_plans(data, "kind: regularisation")
    step = next(a_feeder(plans).steps())
    loop = a_loop(a_job(), tmp_path, trainable=SmallTrainable(dropout=0.0), config=config)
    assert loop.take(step).loss == 0.0
    with torch.no_grad():
        loop.state.parameters[0].add_(0.1)
    halved = loop.take(step).loss
    assert halved > 0.0


def test_the_weight_of_regularisation_scales_its_loss(data: Path, tmp_path: Path) -> None:
    step = next(a_feeder(some_plans(data, "kind: regularisation")).steps())
    losses = []
    for weight in (1.0, 0.25):
        config = LoopConfig(draws=FEED.draws, regularisation_weight=weight)
        loop = a_loop(a_job(), tmp_path, trainable=SmallTrainable(dropout=0.0), config=config)
        with torch.no_grad():
            loop.state.parameters[0].add_(0.1)
        losses.append(loop.take(step).loss)
    assert losses[1] == pytest.approx(losses[0] / 4)


def test_updates_too_small_for_the_weights_are_warned_of(data: Path, tmp_path: Path) -> None:
    ears, spec = Ears(), a_job(num_steps=1, optimizer=OptimizerSpec(learning_rate=1e-12))
    loop = a_loop(spec, tmp_path / "x", ears=ears)
    loop._watch._every_steps = 1
    trained(spec, data, tmp_path / "x", loop=loop)
    assert [told["reason"] for told in ears.of(EventKind.WARNING)] == ["UPDATE_BELOW_PRECISION"]


def train_in_processes(num: int, data: Path, folder: Path, sharding: str) -> list[float]:
    """Train as ``num`` processes that find each other on a free port; return rank 0's losses."""
    probe = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = probe.port
    del probe
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num)}
    shared |= {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": ""}
    shared |= {"ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "support.looping"]
    command += [str(data), str(folder), sharding]
    running = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    told = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [0] * num
    losses: list[float] = json.loads(told[0].splitlines()[-1])
    return losses


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates_twice(data: Path, tmp_path: Path) -> None:
    some_plans(data)
    together = train_in_processes(2, data, tmp_path / "two", "ddp")
    ears, spec = Ears(), a_job(num_steps=4, run={"num_accumulated": 2})
    trained(spec, data, tmp_path / "one", loop=a_loop(spec, tmp_path / "one", ears=ears))
    alone = [told["loss"] for told in ears.of(EventKind.PROGRESS)]
    found = [checkpoints_in(tmp_path / name).latest() for name in ("one", "two")]
    assert found[0] is not None
    assert found[1] is not None
    for part in ("weights", "optimizer", "counts"):
        assert same(dict(found[0].tensors[part]), dict(found[1].tensors[part]))
    assert together == alone


@pytest.mark.slow
def test_weights_that_are_spread_are_trained_as_whole_ones(data: Path, tmp_path: Path) -> None:
    some_plans(data)
    losses = train_in_processes(2, data, tmp_path / "spread", "fsdp2")
    ears, spec = Ears(), a_job(num_steps=4, run={"num_accumulated": 2})
    trained(spec, data, tmp_path / "whole", loop=a_loop(spec, tmp_path / "whole", ears=ears))
    assert losses == pytest.approx([told["loss"] for told in ears.of(EventKind.PROGRESS)])
    found = [checkpoints_in(tmp_path / name).latest() for name in ("whole", "spread")]
    assert found[0] is not None
    assert found[1] is not None
    for part in ("weights", "optimizer"):
        for name, own in found[0].tensors[part].items():
            assert torch.allclose(found[1].tensors[part][name], own, rtol=1e-4, atol=1e-6), name
