"""Going on from an adapter: what training begins with, and what cannot be trained on."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Component, LowRank, Magnitude, Stage
from diptych.adapters.binding import plain_shape, updates_of
from diptych.adapters.bundle import from_bytes
from diptych.adapters.registry import Registry
from diptych.errors import AdapterMismatch, FieldViolation, InvalidRequest
from diptych.training.spec import JobSpec
from diptych.training.trainables.layers import LayerPlan

__all__ = ["read_start", "start_layers"]

_FIELD: Final = "adapter.start_from"
_LEVEL: Final = "text_model."
_ENCODERS: Final = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)


def read_start(reference: str, registry: Registry, *, tenant: str) -> Adapter:
    """Return an adapter of the registry, its updates in float32 and in memory.

    Raises:
        InvalidRequest: ``reference`` is no name, name:tag or digest.
        AdapterNotFound: The tenant has no such adapter.
        BlobCorrupt: Its bytes are no longer right.
    """
    digest = registry.resolve(reference, tenant=tenant)
    with registry.hold(digest, tenant=tenant) as path:
        adapter = from_bytes(path, source=reference)
        targets = {target: _copied(own) for target, own in adapter.targets.items()}
        return replace(adapter, targets=MappingProxyType(targets))


def start_layers(
    adapter: Adapter, networks: Mapping[Component, nn.Module], spec: JobSpec, stage: Stage
) -> dict[Component, dict[str, LayerPlan]]:
    """Return what the layers of an expert's networks begin with; empty for one not in ``adapter``.

    Args:
        adapter: Whose ranks, alphas and targets are taken.
        networks: Those that get updates: ``UNET`` and encoders.
        spec: The job's.
        stage: The expert's.

    Raises:
        InvalidRequest: It holds what cannot be trained on, or nothing for this expert; all of
            that is named.
        AdapterMismatch: It has a layer that a network has not, or of another shape.
    """
    updates = {
        part: updates_of(adapter, part, stage=stage) for part in (Component.UNET, *_ENCODERS)
    }
    problems = list(_problems(adapter, updates, networks, spec))
    if problems:
        raise InvalidRequest([FieldViolation(field=_FIELD, description=one) for one in problems])
    name = str(spec.adapter.start_from)
    return {part: _planned(name, updates[part], network) for part, network in networks.items()}


def _problems(
    adapter: Adapter,
    updates: Mapping[Component, Mapping[str, LowRank]],
    networks: Mapping[Component, nn.Module],
    spec: JobSpec,
) -> Iterator[str]:
    if not updates[Component.UNET]:
        yield f"is for {adapter.made_for.stage} and changes nothing of this expert's UNet"
    if adapter.tokens:
        yield "holds learned tokens, which are not trained on"
    for part in _ENCODERS:
        if updates[part] and part not in networks:
            yield f"changes {part}, which this job does not train"
    for part, found in updates.items():
        magnitudes = [own.magnitude for own in found.values() if own.magnitude is not None]
        if any(magnitude.per_input for magnitude in magnitudes):
            yield f"has DoRA norms per input (dora_scale) of {part}, which PEFT's layers have not"
        elif magnitudes and (part is not Component.UNET or spec.method != "dora"):
            yield f"has DoRA norms of {part}, and the job trains LoRA there"


def _planned(
    adapter: str, updates: Mapping[str, LowRank], network: nn.Module
) -> dict[str, LayerPlan]:
    modules = dict(network.named_modules())
    planned: dict[str, LayerPlan] = {}
    for name, own in updates.items():
        module = name if name in modules else name.removeprefix(_LEVEL)
        weight = getattr(modules.get(module), "weight", None)
        made_for = plain_shape(own.weight_shape)
        if not isinstance(weight, Tensor) or plain_shape(tuple(weight.shape)) != made_for:
            used_on = str(list(weight.shape)) if isinstance(weight, Tensor) else "missing"
            raise AdapterMismatch(
                adapter=adapter,
                field=f"weight {name}",
                made_for=str(list(own.weight_shape)),
                used_on=used_on,
            )
        planned[module] = LayerPlan(rank=own.rank, alpha=own.alpha, start=own)
    return planned


def _copied(own: LowRank) -> LowRank:
    magnitude = own.magnitude
    if magnitude is not None:
        magnitude = Magnitude(norms=_copy(magnitude.norms), per_input=magnitude.per_input)
    return replace(own, down=_copy(own.down), up=_copy(own.up), magnitude=magnitude)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.float().clone()
