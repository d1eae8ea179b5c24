"""Full fine-tunes merged into one checkpoint, tensor by tensor: they are never in memory whole."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diptych.adapters.merge.full_weights import WeightReport, check_full_spec, merge_weight
from diptych.adapters.merge.report import relative_error
from diptych.adapters.merge.spec import MergeSpec
from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import CheckpointInvalid, FieldViolation, InvalidRequest
from diptych.models.checkpoint import SourceConfig, locate, open_checkpoint
from diptych.models.derived_folder import copy_other_parts, write_json, write_part
from diptych.models.folder import open_part
from diptych.models.parts import Checkpoint, Part, StoredTensor, compared_settings
from diptych.models.tensor_stream import read_one, stored_by_name
from diptych.storage.whole_folder import whole_folder

__all__ = ["ExpertMerge", "merge_experts"]

_REPORT = "merge_report.json"
_SCHEDULE = (
    "prediction_type",
    "num_train_timesteps",
    "rescale_betas_zero_snr",
    "beta_start",
    "beta_end",
    "beta_schedule",
)

Progress = Callable[[int, int], None]
"""Told how many tensors are merged, of how many; what it raises ends the merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMerge:
    """A merged checkpoint: where it lies, and how far its weights are from the plain sum."""

    folder: Path
    tensors: tuple[WeightReport, ...]
    kept_parts: tuple[str, ...]
    """Parts taken from the base as they are."""

    @property
    def error(self) -> float:
        """Return the relative error against base + sum w_i (expert_i - base), over all tensors."""
        residual = math.fsum(one.residual_energy for one in self.tensors)
        return relative_error(residual, math.fsum(one.reference_energy for one in self.tensors))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Model:
    """One UNet, opened and not read."""

    source: str
    part: Part
    tensors: Mapping[str, StoredTensor]
    schedule: NoiseSchedule | None
    """None of a folder that holds a UNet alone."""


def merge_experts(
    base: str,
    experts: Sequence[str],
    spec: MergeSpec,
    out: Path,
    *,
    config: SourceConfig,
    progress: Progress | None = None,
) -> ExpertMerge:
    """Merge the UNets of ``experts`` into ``base``'s and write the checkpoint to a new folder.

    Args:
        base: Source of the checkpoint all experts were trained from, in diffusers' layout; parts
            other than the UNet are its own.
        experts: Sources of whole checkpoints in either layout, or folders of a UNet alone.
        spec: How; a weight per expert.
        out: The folder to make, in diffusers' layout.
        config: How sources are reached.
        progress: Called after every tensor.

    Raises:
        InvalidRequest: A value is out of range, or experts are built or trained unlike the base.
        ModelNotFound: A source names nothing.
        CheckpointInvalid: A source cannot be read safely, or the base is a single file.
        NameTaken: ``out`` is there already.
        StoreFull: There is no room for the result.
    """
    check_full_spec(spec, len(experts))
    folder = locate(base, config)
    origin = _open(base, config)
    if folder.is_file() or origin.schedule is None:
        raise CheckpointInvalid(base, "is no whole folder in diffusers' layout")
    tuned = [_open(source, config) for source in experts]
    found = [
        FieldViolation(field=f"experts[{index}]", description=problem)
        for index, model in enumerate(tuned)
        for problem in _problems(origin, model)
    ]
    if found:
        raise InvalidRequest(found)
    reports: list[WeightReport] = []

    def tensor_of(name: str) -> Tensor:
        weight = read_one(origin.part, origin.tensors[name])
        vectors = (read_one(model.part, model.tensors[name]) for model in tuned)
        merged, report = merge_weight(name, weight, vectors, spec)
        reports.append(report)
        if progress is not None:
            progress(len(reports), len(origin.tensors))
        return merged

    with whole_folder(out) as partial:
        kept = copy_other_parts(folder, partial)
        said = _said(base, experts, spec)
        write_part(origin.part, partial, tensor_of, {"diptych.merge": json.dumps(said)})
        result = ExpertMerge(folder=out, tensors=tuple(reports), kept_parts=tuple(kept))
        write_json(_as_text(result, said), partial / _REPORT)
    return result


def _open(source: str, config: SourceConfig) -> _Model:
    path = locate(source, config)
    checkpoint: Checkpoint | None = None
    if path.is_dir() and not (path / "model_index.json").exists():
        part = open_part(path, source, name="unet")
    else:
        checkpoint = open_checkpoint(source, config)
        part = checkpoint.parts["unet"]
    for name, stored in part.tensors.items():
        if "F" not in stored.span.dtype:
            raise CheckpointInvalid(source, f"tensor {name} holds {stored.span.dtype}, not floats")
    return _Model(
        source=source,
        part=part,
        tensors=stored_by_name(part),
        schedule=NoiseSchedule.from_config(checkpoint.scheduler, source=source)
        if checkpoint
        else None,
    )


def _problems(base: _Model, expert: _Model) -> Iterator[str]:
    """Yield everything in which an expert is not built or trained like its base."""
    if missing := base.tensors.keys() - expert.tensors.keys():
        yield f"{expert.source} misses {_some(missing)}"
    if unknown := expert.tensors.keys() - base.tensors.keys():
        yield f"{expert.source} has {_some(unknown)}, which the base has not"
    for name in sorted(base.tensors.keys() & expert.tensors.keys()):
        expected, shape = base.tensors[name].span.shape, expert.tensors[name].span.shape
        if shape != expected:
            yield f"{expert.source}: {name} is {list(shape)}, the base's {list(expected)}"
            break
    for name, (value, wanted) in _facts(base, expert).items():
        if value != wanted:
            yield f"{expert.source}: its {name} is {value!r}, the base's {wanted!r}"


def _facts(base: _Model, expert: _Model) -> dict[str, tuple[object, object]]:
    """Return what an expert and its base must agree on, where both say it."""
    facts: dict[str, tuple[object, object]] = {}
    if base.schedule is not None and expert.schedule is not None:
        facts["schedule"] = (expert.schedule.edm, base.schedule.edm)
        for name in _SCHEDULE:
            facts[name] = (getattr(expert.schedule, name), getattr(base.schedule, name))
    # What a single file's configuration says is read off the shapes, which are compared.
    if expert.part.convert is None:
        own, wanted = compared_settings(expert.part), compared_settings(base.part)
        shared = sorted((own.keys() & wanted.keys()) - {"sample_size"})
        facts |= {name: (own[name], wanted[name]) for name in shared}
    return facts


def _some(names: set[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + rest


def _said(base: str, experts: Sequence[str], spec: MergeSpec) -> dict[str, object]:
    """Return how a checkpoint was merged, as plain values."""
    said = {
        "base": Path(base).name,
        "experts": [Path(source).name for source in experts],
        "method": spec.method,
        "weights": list(spec.weights),
        "seed": spec.seed,
        "scale": spec.scale,
        "density": spec.density,
        "election": spec.election,
        "weighted_vote": spec.weighted_vote,
        "epsilon": spec.epsilon,
        "position": spec.position,
    }
    return {name: value for name, value in said.items() if value is not None}


def _as_text(result: ExpertMerge, said: Mapping[str, object]) -> str:
    value = {
        **said,
        "error": result.error,
        "kept_parts": list(result.kept_parts),
        "tensors": {one.name: one.error for one in result.tensors},
    }
    return json.dumps(value, indent=1) + "\n"
