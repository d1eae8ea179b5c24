"""What a step of training costs on a device: seconds, memory, the share of what it can multiply.

Steps are those of a job's own loop on embeddings that are at hand, against the loop of diffusers'
scripts with the same in memory. Both have a process each and take turns. Networks are of full size
with random weights, which cost as much as real ones, or the nano model for a look on a CPU.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import count, groupby
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diptych.bench.random_weights import SCHEDULE, UNET_CONFIGS, fill_randomly
from diptych.bench.steps import ARCHITECTURES, device_name, matmul_ceiling, now
from diptych.bench.training_reference import PlainConfig, PlainModels, PlainTraining
from diptych.bench.training_speed import own_process
from diptych.datasets.sampling import Position
from diptych.diffusion.schedule import NoiseSchedule
from diptych.digest import Digest
from diptych.models.experts import OpenExpert, load_to_train, open_expert
from diptych.models.family import FAMILIES
from diptych.models.parts import Checkpoint as ModelCheckpoint
from diptych.models.unet import Unet
from diptych.nano.pair import expert_path
from diptych.training.checkpoints import Checkpoint, Written
from diptych.training.conditions import Conditions
from diptych.training.devices import compile_blocks, make_accelerator
from diptych.training.expert_state import ExpertState
from diptych.training.experts import expert_plans
from diptych.training.feeding import FedBatch, FedStep
from diptych.training.keyed_draws import KeyedDraws
from diptych.training.loop import ExpertLoop, LoopConfig
from diptych.training.objective import Objective
from diptych.training.reporting import Silence
from diptych.training.spec import JobSpec
from diptych.training.spec_text import parse_job
from diptych.training.task import WorkerTask
from diptych.training.trainables.loading import equip
from diptych.training.trainables.trained_expert import TrainedExpert

__all__ = [
    "DeviceCase",
    "DeviceCost",
    "DeviceReport",
    "StepCost",
    "measure_device",
    "training_flops",
]

PEAK_FLOPS: Final = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "MI300X": 1307e12}
"""Part of a device's name -> its dense bfloat16 operations per second, as its maker says."""
_NUM_TOKENS: Final = 77
_JOB: Final = """\
name: bench
model: {{source: nano/base-single}}
dataset: {{datasets: [{{id: none, source: {{type: folder, path: none}}, size: {{resolution: {edge}}}}}]}}
method: {method}
{adapter}
optimizer: {{name: adamw, learning_rate: 1e-4}}
run: {{num_steps: 1000, batch_size: {batch}, precision: {precision}, gradient_checkpointing: {recompute}}}
"""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCase:
    """One way to train."""

    method: Literal["lora", "full"]
    batch_size: int
    rank: int = 16
    gradient_checkpointing: bool = False
    compile: bool = False
    """Of ours; the plain loop never is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Of one side."""

    step_s: tuple[float, ...]
    peak_bytes: int
    """0 on a CPU."""
    ceiling_flops: float
    """Operations per second of the best matrix product found."""
    device: str

    @property
    def median_s(self) -> float:
        """Return the median seconds of a step."""
        return statistics.median(self.step_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCost:
    """What one case costs both sides."""

    case: DeviceCase
    flops: float
    """Of one image's forward and backward, counted without any recomputation."""
    ours: StepCost
    theirs: StepCost | None

    @property
    def images_per_s(self) -> float:
        """Return our throughput."""
        return self.case.batch_size / self.ours.median_s

    @property
    def ratio(self) -> float | None:
        """Return our throughput over that of the plain loop."""
        return None if self.theirs is None else self.theirs.median_s / self.ours.median_s

    @property
    def ceiling_share(self) -> float:
        """Return our operations per second over those of the best matrix product."""
        return self.images_per_s * self.flops / self.ours.ceiling_flops

    @property
    def mfu(self) -> float | None:
        """Return our operations per second over what the device's maker says; None if unknown."""
        peak = next((v for k, v in PEAK_FLOPS.items() if k in self.ours.device), None)
        return None if peak is None else self.images_per_s * self.flops / peak


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What one architecture costs on one device."""

    architecture: str
    precision: str
    costs: tuple[DeviceCost, ...]


def measure_device(
    architecture: str,
    cases: Sequence[DeviceCase],
    *,
    device: str,
    num_steps: int = 10,
    plain: bool = True,
    progress: Callable[[DeviceCost], None] = lambda _: None,
    make_executor: Callable[[], Executor] = own_process,
) -> DeviceReport:
    """Take steps of every case in turn and return what they cost.

    Args:
        architecture: A name of ``ARCHITECTURES``.
        cases: What to measure; accelerators compute in bfloat16, CPUs in float32.
        device: Where.
        num_steps: That are timed, after three that are not.
        plain: Whether the plain loop is measured too.
        progress: Called with every case's cost, as soon as it is known. Cases in a row that differ
            in their batch alone share a network and are known together.
        make_executor: Of what trains one side.
    """
    costs = []
    with make_executor() as ours, make_executor() as theirs:
        for _, alike in groupby(cases, key=lambda case: replace(case, batch_size=0)):
            group = tuple(alike)
            flops = training_flops(architecture, group[0].method, rank=group[0].rank)
            job = (architecture, group, device, num_steps)
            own = ours.submit(_ours, *job).result()
            their = theirs.submit(_theirs, *job).result() if plain else [None] * len(group)
            for case, our_cost, their_cost in zip(group, own, their, strict=True):
                costs.append(DeviceCost(case=case, flops=flops, ours=our_cost, theirs=their_cost))
                progress(costs[-1])
    precision = _precision(torch.device(device))
    return DeviceReport(architecture=architecture, precision=precision, costs=tuple(costs))


def _ours(
    architecture: str, cases: Sequence[DeviceCase], device: str, num_steps: int
) -> list[StepCost]:
    """Return what steps of cases with one network cost."""
    _give_back()
    where, first = torch.device(device), cases[0]
    spec = _spec(architecture, first, where)
    task = WorkerTask(
        job_id="bench",
        tenant="default",
        attempt=1,
        spec="",
        home="",
        cache_address="",
        device=device,
    )
    accelerator = make_accelerator(task, spec, timeout=timedelta(minutes=10))
    trained = _trained(architecture, spec, where)
    (plan,) = expert_plans(spec)
    if first.compile:
        compile_blocks(trained.modules)
    state = ExpertState(trained, spec, plan, place=0, num_steps=10**6, accelerator=accelerator)
    loop = ExpertLoop(
        state,
        Objective(trained.facts.opened.schedule, spec.objective, plan.timesteps),
        accelerator,
        LoopConfig(draws=KeyedDraws(seed=0, expert=plan.expert), checkpoint_every=10**9),
        write=_write_nothing,
        teller=Silence(),
    )

    def step_of(case: DeviceCase) -> Callable[[], object]:
        steps = _fed(trained, case.batch_size, ARCHITECTURES[architecture])
        return lambda: loop.take(next(steps))

    return [_cost(step_of(case), where, num_steps) for case in cases]


def _write_nothing(checkpoint: Checkpoint) -> Written:
    raise AssertionError(checkpoint.step)  # none is due


def _theirs(
    architecture: str, cases: Sequence[DeviceCase], device: str, num_steps: int
) -> list[StepCost]:
    """Return the same of the plain loop."""
    _give_back()
    where, first = torch.device(device), cases[0]
    on_device, is_full = where.type == "cuda", first.method == "full"
    dtype = torch.bfloat16 if on_device and not is_full else torch.float32
    unet, opened = _network(architecture, where, dtype)
    edge = ARCHITECTURES[architecture]
    config = PlainConfig(
        resolution=edge,
        rank=None if is_full else first.rank,
        mixed_precision="bf16" if on_device else "no",
        gradient_checkpointing=first.gradient_checkpointing,
    )
    schedule = DDPMScheduler.from_config(dict(opened.checkpoint.scheduler))
    plain = PlainTraining(PlainModels(unet=unet.module, schedule=schedule), config)
    plain.unet.train()

    def step_of(case: DeviceCase) -> Callable[[], object]:
        latents, told = _batch(unet.module, case.batch_size, edge)
        assert told.prompt_embeds is not None
        assert told.pooled is not None
        batch = (latents.to(where), told.prompt_embeds.to(where), told.pooled.to(where))
        return lambda: plain.step(*batch)

    return [_cost(step_of(case), where, num_steps) for case in cases]


def _give_back() -> None:
    """Free what a case before this one took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _cost(step: Callable[[], object], device: torch.device, num_steps: int) -> StepCost:
    """Return what steps cost, the first three not counted."""
    on_device = device.type == "cuda"
    for _ in range(3):
        step()
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(num_steps):
        began = now(device)
        step()
        seconds.append(now(device) - began)
    return StepCost(
        step_s=tuple(seconds),
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_device else 0,
        ceiling_flops=matmul_ceiling(device, torch.bfloat16 if on_device else torch.float32),
        device=device_name(device),
    )


def _precision(device: torch.device) -> str:
    return "bf16" if device.type == "cuda" else "fp32"


def _spec(architecture: str, case: DeviceCase, device: torch.device) -> JobSpec:
    adapter = f"adapter: {{rank: {case.rank}, init: gaussian}}" if case.method == "lora" else ""
    text = _JOB.format(
        edge=ARCHITECTURES[architecture],
        method=case.method,
        adapter=adapter,
        batch=case.batch_size,
        precision=_precision(device),
        recompute=str(case.gradient_checkpointing).lower(),
    )
    return parse_job(text.encode(), folder=Path.cwd())


def _network(
    architecture: str, device: torch.device, dtype: torch.dtype
) -> tuple[Unet, OpenExpert]:
    """Return the network to be trained, without updates, and where it is from.

    On the meta device it has no weights.
    """
    opened, config = _opened(architecture)
    if architecture == "nano" and device.type != "meta":
        unet, _ = load_to_train(opened, device=device, unet_dtype=dtype)
        return unet, opened
    with torch.device("meta"):
        module = UNet2DConditionModel.from_config(config)
    if device.type != "meta":
        fill_randomly(module, device=device, dtype=dtype)
    nn.Module.to(module, dtype)
    return Unet(module, fingerprint="random"), opened


def _opened(architecture: str) -> tuple[OpenExpert, Mapping[str, Any]]:
    """Return a model without weights, and the configuration of its UNet."""
    if architecture == "nano":
        opened = open_expert(str(expert_path("base-single")), cache_dir=Path.cwd())
        return opened, opened.checkpoint.parts["unet"].config
    schedule = NoiseSchedule.from_config(SCHEDULE, source="random")
    checkpoint = ModelCheckpoint(
        source="random", pipeline={}, scheduler=SCHEDULE, parts={}, tokenizers={}
    )
    family = FAMILIES["sdxl-base"]
    opened = OpenExpert(checkpoint=checkpoint, family=family, schedule=schedule)
    return opened, UNET_CONFIGS["base"]


def _trained(architecture: str, spec: JobSpec, device: torch.device) -> TrainedExpert:
    is_half = spec.run.precision == "bf16" and spec.method != "full"
    dtype = torch.bfloat16 if is_half else torch.float32
    unet, opened = _network(architecture, device, dtype)
    return equip(unet, None, opened, spec, expert_plans(spec)[0])


def _fed(trained: TrainedExpert, batch_size: int, edge: int) -> Iterator[FedStep]:
    """Yield steps that all have the same batch, on the CPU as a feeder gives it."""
    latents, conditions = _batch(trained.network.unet, batch_size, edge)
    images = (Digest.of_bytes(b"image"),) * batch_size
    for number in count(1):
        batch = FedBatch(
            number=number,
            latents=latents,
            conditions=conditions,
            mask=None,
            is_regularisation=False,
            images=images,
        )
        yield FedStep(number=number, epoch=1, batches=(batch,), after=Position())


def _batch(unet: UNet2DConditionModel, size: int, edge: int) -> tuple[torch.Tensor, Conditions]:
    """Return latents [B, 4, h, w] and conditions, normal numbers, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    config = unet.config
    num_pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=generator)

    conditions = Conditions(
        prompt_embeds=normal(_NUM_TOKENS, config.cross_attention_dim),
        pooled=normal(num_pooled),
        time_ids=torch.tensor([[edge, edge, 0, 0, edge, edge]] * size, dtype=torch.float32),
    )
    return normal(4, edge // 8, edge // 8), conditions


@cache
def training_flops(architecture: str, method: Literal["lora", "full"], *, rank: int = 16) -> float:
    """Return the operations of one image's forward and backward, without computing anything."""
    nowhere = torch.device("meta")
    case = DeviceCase(method=method, batch_size=1, rank=rank)
    trained = _trained(architecture, _spec(architecture, case, torch.device("cpu")), nowhere)
    latents, told = _batch(trained.network.unet, 1, ARCHITECTURES[architecture])
    t = torch.zeros(1, dtype=torch.int64, device=nowhere)
    with FlopCounterMode(display=False) as counter:
        trained.predict(latents.to(nowhere), t, told.to(nowhere)).sum().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())
