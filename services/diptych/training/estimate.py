"""What a job will take before it starts: memory, disk, steps, time. From headers; no torch.

Memory is what torch holds at its peak on one device: weights, their gradients, optimizer states and
moving averages exactly, what a forward leaves by ``activations``. The driver's own memory (some
hundred MiB) and fragmentation come on top, and DoRA's norms are counted as LoRA is; a job wants a
tenth more than is said here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diptych.adapters.naming import Component
from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Sampler, SamplerConfig
from diptych.datasets.spec import DatasetSpec, Manifest
from diptych.training.activations import saved_bytes, text_saved_bytes, unet_blocks
from diptych.training.experts import Expert, reads_trained_texts
from diptych.training.model_facts import JobFacts, ModelFacts
from diptych.training.spec import AdapterSpec, JobSpec, OptimizerName
from diptych.training.targets import TargetModule, pattern_value, target_modules, text_modules

__all__ = ["Estimate", "ExpertEstimate", "estimate", "num_steps_of", "trained_shapes"]

Shape = tuple[int, ...]

MASTER_BYTES: Final = 4
GRADIENT_BYTES: Final = 4
EMA_BYTES: Final = 4
EXPORT_BYTES: Final = 2
"""Of one number of an expert's folder; an adapter's factors are written as they were trained."""
ITEM_BYTES: Final[Mapping[str, int]] = {"fp32": 4, "bf16": 2, "fp16": 2}
STATE_BYTES: Final[Mapping[OptimizerName, float]] = {
    "adamw": 8,
    "adamw_8bit": 2.06,
    "adafactor": 0,
    "lion": 4,
    "prodigy": 16,
    "schedule_free_adamw": 8,
    "stable_adamw": 8,
}
"""For each trained number; Adafactor's are for each row and column."""
FACTOR_BYTES: Final = 4
MAX_COUNTED_EPOCHS: Final = 10_000
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEstimate:
    """What one expert takes."""

    expert: Expert
    num_trained: int
    """Numbers that change."""
    weight_bytes: int
    """Frozen weights in the compute precision, and trained ones in float32."""
    update_bytes: int
    """Gradients, optimizer states, moving averages."""
    activation_bytes: int
    checkpoint_bytes: int
    """Of one checkpoint."""
    export_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Return the most that one device holds."""
        return self.weight_bytes + self.update_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job takes."""

    experts: tuple[ExpertEstimate, ...]
    """Of those whose models are at hand, in the order in which they are trained."""
    peak_memory_bytes: int | None
    """Of one device, be it of several; None where a model is not at hand."""
    disk_bytes: int | None
    """Checkpoints that are kept, those that may be written at once, and what is exported."""
    num_trained_parameters: int | None
    num_steps: int | None
    """Of one expert; None where it is said in epochs and the images are not known."""
    num_images: int | None
    """That one expert sees, repeats counted."""
    seconds: float | None
    """None without a measured speed."""


def estimate(
    spec: JobSpec,
    facts: JobFacts,
    *,
    plans: Mapping[str, Plan] | None = None,
    images_per_s: float | None = None,
) -> Estimate:
    """Return what a job takes.

    Args:
        spec: The job.
        facts: Of its models, those that are at hand.
        plans: Of its datasets, where they are known; else sizes are the manifest's.
        images_per_s: As measured on such a device with such a job.
    """
    num_experts = 2 if spec.stage == "both" else 1
    experts = tuple(_expert(spec, expert, model, plans) for expert, model in facts.items())
    is_whole = len(experts) == num_experts
    num_steps = num_steps_of(spec, plans)
    num_images = None if num_steps is None else num_steps * _images_per_step(spec, plans)
    seconds = None
    if num_images is not None and images_per_s:
        num_in_turn = 1 if spec.run.side_by_side else num_experts
        seconds = num_images * num_in_turn / images_per_s
    return Estimate(
        experts=experts,
        peak_memory_bytes=max(one.peak_bytes for one in experts) if is_whole else None,
        disk_bytes=_disk_bytes(spec, experts) if is_whole else None,
        num_trained_parameters=sum(one.num_trained for one in experts) if is_whole else None,
        num_steps=num_steps,
        num_images=num_images,
        seconds=seconds,
    )


def num_steps_of(spec: JobSpec, plans: Mapping[str, Plan] | None = None) -> int | None:
    """Return how many optimizer steps one expert makes; None where that is not known."""
    run = spec.run
    if run.num_steps is not None:
        return run.num_steps
    if plans is None or run.num_epochs is None or run.num_epochs > MAX_COUNTED_EPOCHS:
        return None
    config = SamplerConfig(
        seed=spec.run.seed,
        num_epochs=run.num_epochs,
        is_weighted=spec.dataset.draw == "weighted",
        num_ranks=_num_ranks(spec),
        num_accumulated=run.num_accumulated,
    )
    sampler = Sampler(plans, config)
    num_batches = 0
    for epoch in range(1, run.num_epochs + 1):
        num_batches += sampler.num_batches(epoch, num_before=num_batches)
    return math.ceil(num_batches / config.batches_per_step)


def trained_shapes(spec: JobSpec, model: ModelFacts, expert: Expert = "base") -> list[Shape]:
    """Return the shape of every tensor that a job changes of one expert."""
    unet = model.shapes[Component.UNET]
    found: list[Shape] = []
    if spec.method == "full":
        found += unet.values()
    else:
        for name, shape in target_modules(unet, spec.adapter.targets):
            found += _factors((name, shape), _rank(spec.adapter, name), dora=spec.method == "dora")
    text = spec.text_encoders
    for encoder in () if reads_trained_texts(spec, expert) else model.text_encoders:
        shapes = model.shapes[encoder]
        if text.method == "full":
            found += shapes.values()
        elif text.method == "lora":
            for module in text_modules(shapes):
                found += _factors(module, text.rank, dora=False)
    return found


def _rank(adapter: AdapterSpec, name: str) -> int:
    return pattern_value(adapter.rank_pattern, name, adapter.rank)


def _factors(module: TargetModule, rank: int, *, dora: bool) -> list[Shape]:
    """Return A's and B's shapes as PEFT makes them, and the magnitude's."""
    num_out, num_in, *kernel = module[1]
    ones = (1,) * len(kernel)
    found: list[Shape] = [(rank, num_in, *kernel), (num_out, rank, *ones)]
    return [*found, (num_out,)] if dora else found


def _expert(
    spec: JobSpec, expert: Expert, model: ModelFacts, plans: Mapping[str, Plan] | None
) -> ExpertEstimate:
    shapes = trained_shapes(spec, model, expert)
    num_trained = sum(map(math.prod, shapes))
    num_shards = _num_ranks(spec) if spec.run.sharding == "fsdp2" else 1
    state = _state_bytes(spec.optimizer.name, shapes)
    ema = EMA_BYTES * num_trained if spec.run.ema is not None else 0
    frozen = _num_frozen(spec, model) * ITEM_BYTES[spec.run.precision]
    export = MASTER_BYTES * num_trained
    if spec.method == "full":
        export = EXPORT_BYTES * sum(model.num_parameters.values())
    return ExpertEstimate(
        expert=expert,
        num_trained=num_trained,
        weight_bytes=(frozen + MASTER_BYTES * num_trained) // num_shards,
        update_bytes=(GRADIENT_BYTES * num_trained + state + ema) // num_shards,
        activation_bytes=_activation_bytes(spec, model, plans),
        checkpoint_bytes=MASTER_BYTES * num_trained + state + ema,
        export_bytes=export,
    )


def _num_frozen(spec: JobSpec, model: ModelFacts) -> int:
    """Return how many numbers are held and not trained; text encoders only where they are."""
    counts = model.num_parameters
    unet = 0 if spec.method == "full" else counts[Component.UNET]
    texts = sum(counts[name] for name in model.text_encoders)
    return unet + (texts if spec.text_encoders.method == "lora" else 0)


def _state_bytes(name: OptimizerName, shapes: Sequence[Shape]) -> int:
    if name != "adafactor":
        return math.ceil(STATE_BYTES[name] * sum(map(math.prod, shapes)))
    lines = 0
    for shape in shapes:
        is_matrix = len(shape) >= _MATRIX
        lines += (
            math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1] if is_matrix else shape[0]
        )
    return FACTOR_BYTES * lines


def _activation_bytes(spec: JobSpec, model: ModelFacts, plans: Mapping[str, Plan] | None) -> int:
    num_pixels, num_pictures = _largest_batch(spec, plans)
    item_bytes = ITEM_BYTES[spec.run.precision]
    blocks = unet_blocks(model.shapes[Component.UNET], model.unet)
    found = saved_bytes(
        blocks,
        num_pixels=num_pixels,
        item_bytes=item_bytes,
        all_trained=spec.method == "full" or spec.adapter.targets not in {"prompt", "attention"},
        recomputes=spec.run.gradient_checkpointing,
    )
    if spec.method == "full" and item_bytes != MASTER_BYTES:
        # Weights in the compute precision are made as they are used, and kept for the backward.
        copies = model.num_parameters[Component.UNET] * item_bytes
        found += 0 if spec.run.gradient_checkpointing else copies
    if spec.text_encoders.method != "none":
        for name in model.text_encoders:
            found += text_saved_bytes(
                model.shapes[name], num_texts=num_pictures, item_bytes=item_bytes
            )
    return found


def _largest_batch(spec: JobSpec, plans: Mapping[str, Plan] | None) -> tuple[int, int]:
    """Return the pixels and the pictures of the batch that takes most memory."""
    sizes = [(0, 0)]
    for plan in (plans or {}).values():
        for bucket in plan.buckets if plan.spec.kind != "eval" else ():
            pixels = bucket.width * bucket.height * plan.batch_size
            sizes.append((pixels, plan.batch_size))
    if plans is None:
        for dataset in _trained(spec.dataset):
            batch_size = dataset.sampling.batch_size or spec.run.batch_size
            sizes.append((_pixels(dataset) * batch_size, batch_size))
    return max(sizes)


def _pixels(dataset: DatasetSpec) -> int:
    """Return the pixels of a dataset's pictures, where its images are not known."""
    size = dataset.size
    if own := dataset.buckets.sizes:
        return max(width * height for width, height in own)
    if size.unit == "megapixels":
        return math.ceil(size.resolution * 1e6)
    return math.ceil(size.resolution**2)


def _trained(manifest: Manifest) -> list[DatasetSpec]:
    return [one for one in manifest.datasets if one.kind != "eval" and not one.disabled]


def _num_ranks(spec: JobSpec) -> int:
    """Return the devices that train one expert."""
    return spec.run.num_nodes * spec.run.num_devices


def _images_per_step(spec: JobSpec, plans: Mapping[str, Plan] | None) -> int:
    sizes = [plan.batch_size for plan in (plans or {}).values() if plan.spec.kind != "eval"]
    if plans is None:
        trained = _trained(spec.dataset)
        sizes = [one.sampling.batch_size or spec.run.batch_size for one in trained]
    return max(sizes, default=1) * spec.run.num_accumulated * _num_ranks(spec)


def _disk_bytes(spec: JobSpec, experts: Sequence[ExpertEstimate]) -> int:
    kept = sum(one.checkpoint_bytes * spec.checkpoints.keep for one in experts)
    sizes = [one.checkpoint_bytes for one in experts]
    written = sum(sizes) if spec.run.side_by_side else max(sizes)
    return kept + written + sum(one.export_bytes for one in experts)
