"""From a job and the expert to train to the network with the weights that will change."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from diptych.adapters.adapter import Component, Stage
from diptych.adapters.naming import DEFAULT_TENANT
from diptych.adapters.registry import Registry
from diptych.digest import Digest
from diptych.errors import CheckpointInvalid, FieldViolation, InvalidRequest
from diptych.models.experts import LoadOptions, OpenExpert, load_to_train, open_expert
from diptych.models.parts import Checkpoint
from diptych.models.text_encoders import TextEncoders
from diptych.models.unet import Unet
from diptych.nano.pair import model_source
from diptych.training.experts import ExpertPlan
from diptych.training.spec import JobSpec
from diptych.training.trainables.layers import (
    LayerPlan,
    plan_text_layers,
    plan_unet_layers,
    unread_parts,
)
from diptych.training.trainables.low_rank import LowRankOptions, add_low_rank
from diptych.training.trainables.network import ExpertNetwork
from diptych.training.trainables.precision import compute_in
from diptych.training.trainables.start import read_start, start_layers
from diptych.training.trainables.texts import TrainedTexts
from diptych.training.trainables.trained_expert import ExpertFacts, TrainedExpert

__all__ = ["check_written", "equip", "load_trainable"]

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NANO_NAMES: Final = {"single": "base-single"}
"""What ``nano`` means for an expert, where that is not its own name."""


def load_trainable(
    spec: JobSpec,
    plan: ExpertPlan,
    *,
    device: torch.device | str,
    cache_dir: Path,
    registry: Registry | None = None,
    tenant: str = DEFAULT_TENANT,
    options: LoadOptions | None = None,
) -> TrainedExpert:
    """Return the expert of ``plan`` on ``device``, with what ``spec`` trains of it.

    What is trained is float32 and is computed in the job's precision; what is frozen is held in
    that precision.

    Args:
        spec: The job's.
        plan: One of ``expert_plans``.
        device: Where it is trained.
        cache_dir: Where fetched models are kept.
        registry: Where ``adapter.start_from`` is looked up; may be None without it.
        tenant: Whose adapters these are.
        options: How sources are reached; family and revision are the spec's.

    Raises:
        ModelNotFound: The source names nothing.
        SourceUnavailable: A hub or store does not answer.
        CheckpointInvalid: The model cannot be read safely.
        InvalidRequest: A pattern matches no layer, or what is started from cannot be trained on.
        AdapterNotFound: There is nothing to start from by that name.
        AdapterMismatch: What is started from does not fit the model.
    """
    opened = _opened(spec, plan, cache_dir, options or LoadOptions())
    dtype = _DTYPES[spec.run.precision]
    texts = spec.text_encoders.method
    unet, encoders = load_to_train(
        opened,
        device=torch.device(device),
        unet_dtype=torch.float32 if spec.method == "full" else dtype,
        text_dtype={"none": None, "lora": dtype, "full": torch.float32}[texts],
    )
    return equip(unet, encoders, opened, spec, plan, registry=registry, tenant=tenant)


def equip(
    unet: Unet,
    encoders: TextEncoders | None,
    opened: OpenExpert,
    spec: JobSpec,
    plan: ExpertPlan,
    *,
    registry: Registry | None = None,
    tenant: str = DEFAULT_TENANT,
) -> TrainedExpert:
    """Return networks with what ``spec`` trains of them; they are changed in place.

    Args:
        unet: As ``load_to_train`` gives it, in the dtype that the job wants.
        encoders: Where texts are trained, likewise.
        opened: Where they came from.
        spec: The job's.
        plan: The expert's.
        registry: Where ``adapter.start_from`` is looked up; may be None without it.
        tenant: Whose adapters these are.

    Raises as ``load_trainable`` of what is not about reading the model.
    """
    dtype = _DTYPES[spec.run.precision]
    networks: dict[Component, nn.Module] = {Component.UNET: unet.module}
    for encoder in encoders.encoders if encoders is not None else ():
        networks[Component(encoder.name)] = encoder.module
    updated = {part: own for part, own in networks.items() if _method(part, spec) != "full"}
    _update(updated, spec, plan, registry=registry, tenant=tenant)
    for part, network in networks.items():
        if part not in updated:
            network.requires_grad_()
            compute_in(network, dtype)
        for name, parameter in network.named_parameters():
            if name.startswith(unread_parts(network)):
                parameter.requires_grad_(False)
    network = _network(unet.module, encoders, spec, dtype)
    facts = _facts(spec, plan, opened, unet.fingerprint)
    return TrainedExpert(network, facts=facts, spec=spec)


def check_written(spec: JobSpec, checkpoint: Checkpoint) -> None:
    """Check that what a job makes can be written around ``checkpoint``.

    Raises:
        CheckpointInvalid: It is a single file, and a whole model is to be written.
    """
    is_whole = "full" in {spec.method, spec.text_encoders.method}
    if is_whole and checkpoint.folder is None:
        problem = "is no whole folder in diffusers' layout, as which a full fine-tune is written"
        raise CheckpointInvalid(checkpoint.source, problem)


def _opened(spec: JobSpec, plan: ExpertPlan, cache_dir: Path, options: LoadOptions) -> OpenExpert:
    source = model_source(plan.source, _NANO_NAMES.get(plan.expert, plan.expert))
    assert source is not None
    is_first = plan.source == spec.model.source
    own = replace(
        options,
        base_family=spec.model.family if is_first else None,
        base_revision=spec.model.revision if is_first else None,
    )
    opened = open_expert(source, cache_dir=cache_dir, options=own)
    if opened.schedule.edm is not None:
        description = "is a model of EDM's schedule, which is not trained here"
        raise InvalidRequest([FieldViolation(field="model.source", description=description)])
    check_written(spec, opened.checkpoint)
    return opened


def _update(
    networks: Mapping[Component, nn.Module],
    spec: JobSpec,
    plan: ExpertPlan,
    *,
    registry: Registry | None,
    tenant: str,
) -> None:
    """Put low-rank updates on ``networks``."""
    layers: dict[Component, dict[str, LayerPlan]] = {}
    if spec.adapter.start_from is not None:
        assert registry is not None
        adapter = read_start(spec.adapter.start_from, registry, tenant=tenant)
        stage = Stage.REFINER if plan.expert == "refiner" else Stage.BASE
        layers = start_layers(adapter, networks, spec, stage)
    for part, network in networks.items():
        is_unet = part is Component.UNET
        planned = layers.get(part) or (
            plan_unet_layers(network, spec.adapter)
            if is_unet
            else plan_text_layers(network, spec.text_encoders)
        )
        seed = Digest.of_value([spec.run.seed, plan.expert, str(part)])
        options = LowRankOptions(
            dora=is_unet and spec.method == "dora",
            rank_stabilised=is_unet and spec.adapter.rank_stabilised,
            dropout=spec.adapter.dropout if is_unet else 0.0,
            init=spec.adapter.init,
            seed=int(seed.hex[:15], 16),
        )
        add_low_rank(network, planned, options)


def _facts(spec: JobSpec, plan: ExpertPlan, opened: OpenExpert, fingerprint: str) -> ExpertFacts:
    schedule, asked = opened.schedule, spec.objective
    zero_snr = schedule.rescale_betas_zero_snr if asked.zero_snr is None else asked.zero_snr
    return ExpertFacts(
        plan=plan,
        opened=opened,
        fingerprint=fingerprint,
        prediction_type=asked.prediction_type or schedule.prediction_type,
        zero_snr=zero_snr,
    )


def _method(part: Component, spec: JobSpec) -> str:
    return spec.method if part is Component.UNET else spec.text_encoders.method


def _network(
    unet: UNet2DConditionModel, encoders: TextEncoders | None, spec: JobSpec, dtype: torch.dtype
) -> ExpertNetwork:
    saves_memory = spec.run.gradient_checkpointing
    if saves_memory:
        unet.enable_gradient_checkpointing()
    texts = None if encoders is None else TrainedTexts(encoders, recompute=saves_memory)
    # Only updates have a dropout.
    return ExpertNetwork(unet, texts, dtype=dtype).train()
