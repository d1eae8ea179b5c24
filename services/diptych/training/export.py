"""What a job ends in: an adapter that says what it is for, or an expert that can be served.

Nothing is named here but experts, whose folders are whole before their name points at them; an
adapter is a value, which the registry publishes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LowRank, MadeFor, Stage, Target
from diptych.adapters.naming import DEFAULT_TENANT, check_name, check_tenant
from diptych.adapters.peft_names import module_of_encoder
from diptych.adapters.soundness import check_numbers, check_shapes
from diptych.digest import Digest, canonical_bytes
from diptych.errors import CheckpointInvalid, NameTaken
from diptych.models.assembly import module_name
from diptych.models.derived_folder import copy_other_parts, write_json, write_part
from diptych.models.parts import Part
from diptych.models.tensor_stream import read_one
from diptych.models.trained_experts import expert_folder, point_at
from diptych.storage.whole_folder import whole_folder
from diptych.training.spec import JobSpec
from diptych.training.trainables.low_rank import low_ranks_of, merged_weights
from diptych.training.trainables.trained_expert import ExpertFacts, TrainedExpert

__all__ = ["ExportedExpert", "export_adapter", "export_expert"]

_STAGES: Final = {
    "single": Stage.BASE,
    "base": Stage.BASE,
    "refiner": Stage.REFINER,
    "both": Stage.BOTH,
}
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_PIECE: Final = 1 << 22
"""Numbers that are hashed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedExpert:
    """A trained expert as it can be served."""

    name: str
    """``experts/NAME`` is its source from now on."""
    digest: Digest
    """Of its weights and schedule: the same ones again are the same folder."""
    folder: Path


def export_adapter(trained: Sequence[TrainedExpert], spec: JobSpec) -> Adapter:
    """Return the adapter of a job's experts, as they are now, in float32.

    Factors for the refiner's UNet have a component of their own where the job trained both
    experts; text encoders are trained with the first expert only and are named once.

    Args:
        trained: All of the job's experts, base first.
        spec: The job's.

    Raises:
        AdapterInvalid: What was trained is not finite, or beyond float16.
    """
    targets: dict[Target, LowRank] = {}
    for one in trained:
        is_beside = spec.stage == "both" and one.facts.plan.expert == "refiner"
        component = Component.REFINER_UNET if is_beside else Component.UNET
        for module, own in low_ranks_of(one.network.unet).items():
            targets[Target(component=component, module=module)] = own
        texts = None if is_beside else one.network.texts
        for name, encoder in texts.named_children() if texts is not None else ():
            for module, own in low_ranks_of(encoder).items():
                target = Target(component=Component(name), module=module_of_encoder(module))
                targets[target] = own
    facts, last = trained[0].facts, trained[-1].facts
    adapter = Adapter(
        targets=MappingProxyType(targets),
        made_for=MadeFor(
            family=facts.opened.family.name,
            base_fingerprint=facts.fingerprint,
            stage=_STAGES[spec.stage],
            prediction_type=facts.prediction_type,
            zero_snr=facts.zero_snr,
            timestep_range=(last.plan.first_timestep, facts.plan.last_timestep),
        ),
        trigger_words=spec.trigger_words,
    )
    return check_numbers(check_shapes(adapter, spec.name), spec.name)


def export_expert(
    trained: TrainedExpert, spec: JobSpec, *, experts_dir: Path, tenant: str = DEFAULT_TENANT
) -> ExportedExpert:
    """Write a whole model around what was fully trained, and let its name mean it.

    Weights have the dtypes they had in the model that training started from; text encoders that
    were trained are replaced, updates merged into them; everything else is the start's. The
    schedule is the one that was trained.

    Args:
        trained: One of the job's experts.
        spec: The job's; with both stages the names are ``NAME/base`` and ``NAME/refiner``.
        experts_dir: Where trained experts lie.
        tenant: Whose they are.

    Raises:
        InvalidRequest: The name or the tenant is not plain.
        CheckpointInvalid: A weight is not finite in its dtype.
        StoreFull: There is no room.
    """
    facts = trained.facts
    name = f"{spec.name}/{facts.plan.expert}" if spec.stage == "both" else spec.name
    check_name(name)
    check_tenant(tenant)
    source = facts.opened.checkpoint.folder
    assert source is not None
    weights = _weights(trained, name)
    scheduler = _scheduler(facts)
    digest = _digest(trained, weights, scheduler)
    folder = expert_folder(experts_dir, name, digest, tenant=tenant)
    # What is there already under this digest is the same.
    with suppress(NameTaken), whole_folder(folder) as unnamed:
        copy_other_parts(source, unnamed, replaced=weights.keys())
        for part, tensor_of in weights.items():
            said = {"diptych.trained": json.dumps(_said(facts), sort_keys=True)}
            write_part(facts.opened.checkpoint.parts[part], unnamed, tensor_of, said)
        text = json.dumps(scheduler, indent=2, sort_keys=True) + "\n"
        write_json(text, unnamed / "scheduler" / "scheduler_config.json")
    point_at(experts_dir, name, digest, tenant=tenant)
    return ExportedExpert(name=name, digest=digest, folder=folder)


def _weights(trained: TrainedExpert, name: str) -> dict[str, Callable[[str], Tensor]]:
    """Return what gives the tensors of each part that was trained, by their stored names."""
    parts = trained.facts.opened.checkpoint.parts
    networks = {"unet": trained.network.unet}
    if trained.network.texts is not None:
        networks |= dict(trained.network.texts.named_children())
    return {
        part: partial(_stored, parts[part], merged_weights(network), name)
        for part, network in networks.items()
    }


def _stored(
    part: Part, merged: Mapping[str, Callable[[], Tensor]], name: str, stored: str
) -> Tensor:
    """Return the tensor that is stored as ``stored``, in its dtype there."""
    own = merged.get(module_name(stored, merged))
    if own is None:  # a buffer that modules compute
        return read_one(part, part.tensors[stored])
    tensor = own().to(_DTYPES[part.tensors[stored].span.dtype])
    if not bool(tensor.isfinite().all()):
        problem = f"{part.name} {stored} is not finite as {tensor.dtype}"
        raise CheckpointInvalid(name, problem)
    return tensor


def _scheduler(facts: ExpertFacts) -> dict[str, object]:
    """Return the start's scheduler with what was trained; zero SNR is only seen from the end."""
    own: dict[str, object] = {
        **facts.opened.checkpoint.scheduler,
        "prediction_type": facts.prediction_type,
        "rescale_betas_zero_snr": facts.zero_snr,
    }
    return own | {"timestep_spacing": "trailing"} if facts.zero_snr else own


def _said(facts: ExpertFacts) -> dict[str, object]:
    return {
        "expert": facts.plan.expert,
        "timesteps": [facts.plan.first_timestep, facts.plan.last_timestep],
        "started_from": facts.fingerprint,
    }


def _digest(
    trained: TrainedExpert,
    weights: Mapping[str, Callable[[str], Tensor]],
    scheduler: Mapping[str, object],
) -> Digest:
    """Return the digest of the weights that are written, and of what else tells experts apart."""
    facts = trained.facts
    state = hashlib.sha256(canonical_bytes([_said(facts), dict(scheduler)]))
    for part, tensor_of in sorted(weights.items()):
        for name in sorted(facts.opened.checkpoint.parts[part].tensors):
            tensor = tensor_of(name).contiguous()
            state.update(canonical_bytes([part, name, str(tensor.dtype), list(tensor.shape)]))
            for piece in torch.split(tensor.flatten(), _PIECE):
                state.update(piece.view(torch.uint8).numpy().tobytes())
    return Digest(hex=state.hexdigest())
