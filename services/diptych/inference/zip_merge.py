"""Zips adapters on the experts that are served, which go on serving meanwhile."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import torch

from diptych.adapters.adapter import Adapter, LowRank, Target
from diptych.adapters.merge.identity import (
    MERGE_KEY,
    merge_metadata,
    merge_purposes,
    merge_tokens,
    merge_words,
    on_experts,
)
from diptych.adapters.merge.merging import Merged, Progress, merge
from diptych.adapters.merge.product import report_of
from diptych.adapters.merge.report import MergeReport
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.merge.task_vectors import Factors, factors_of
from diptych.adapters.merge.zipping import UNETS, Columns, ZipSpec, check_zip, columns_of, train
from diptych.adapters.naming import Component, Stage
from diptych.diffusion.noise import RowNoise
from diptych.diffusion.split import boundary_timestep
from diptych.errors import ExpertMissing, FieldViolation, InvalidRequest
from diptych.inference.base_weights import check_shapes, weights_of
from diptych.inference.conditions import Conditions
from diptych.inference.trajectory import Expert
from diptych.inference.zip_networks import Network, Weighted, conditions_of, private_network
from diptych.inference.zip_training import Source, Training, draw_pictures, interval_places
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.experts import Experts

__all__ = ["Zipped", "zip_merge"]

_BOUNDARY: Final = 0.65
"""Where the base expert ends if both are served and the caller does not say."""
_Targets = Mapping[Target, LowRank]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Zipped:
    """A zip's result, and what it was worth."""

    merged: Merged
    errors_before: tuple[float, ...]
    """Of each source at its prompt, relative, with all coefficients at the weights: as ``cat``."""
    errors_after: tuple[float, ...]


def zip_merge(
    adapters: Sequence[Adapter],
    spec: ZipSpec,
    *,
    experts: Experts,
    boundary: float = _BOUNDARY,
    size: int | None = None,
    progress: Progress | None = None,
) -> Zipped:
    """Zip ``adapters`` on the experts they were made for; on one device, equal inputs repeat.

    Text encoders' updates add up by their weights, as in ``cat``; learned tokens are kept, and
    renamed where two adapters have one name.

    Args:
        adapters: 2 or more LoRAs, each of any rank.
        spec: How.
        experts: Served ones; nothing of them changes.
        boundary: Share of the schedule that is the base's where both are there.
        size: Of the pictures that are trained on, pixels; None is the family's own.
        progress: Told after every step; called with 0 before them, too. What it raises ends it.

    Raises:
        InvalidRequest: They cannot be zipped like that, or one changes nothing at its prompt.
        AdapterMismatch: One has a target that the experts have not.
        ExpertMissing: They were made for an expert that is not there.
        PromptTooLong: A prompt does not fit one window.
        EngineFault: The loss left the range of numbers.
    """
    check_zip(adapters, spec)
    go_on = progress or (lambda done, total: None)
    stage, targets = on_experts(adapters)
    hosted = {Expert(expert.name): expert for expert in experts.hosted}
    trained = _trained(stage, targets, hosted)
    for name in trained:
        _check_fit(adapters, name, hosted[name])
    first = experts.hosted[0]
    columns = columns_of(targets, spec.weights_of(len(adapters)), first.unet.device)
    networks = {
        name: private_network(expert, _by_layer(columns, name) if name in trained else None)
        for name, expert in hosted.items()
    }
    studio = _Studio(
        adapters=adapters,
        targets=targets,
        spec=spec,
        networks=networks,
        noise=RowNoise(spec.seed),
        cut=boundary_timestep(first.schedule.num_train_timesteps, boundary),
        size=size or first.family.default_size,
    )
    training = _training(studio, merge_purposes(adapters, stage).timestep_range, go_on)
    before = training.judge()
    train(list(columns.values()), training.loss_at, spec, go_on)
    return Zipped(
        merged=_packed(adapters, targets, list(columns.values()), spec=spec, stage=stage),
        errors_before=before,
        errors_after=training.judge(),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Studio:
    """Everything that a source's prompt and pictures are made with."""

    adapters: Sequence[Adapter]
    targets: Sequence[_Targets]
    spec: ZipSpec
    networks: Mapping[Expert, Network]
    noise: RowNoise
    cut: int
    size: int

    def source(self, index: int, go_on: Progress) -> Source:
        """Return one source; its pictures are the next that the noise makes."""
        own, merged = self._text_updates([index]), self._text_updates(range(len(self.adapters)))
        told, told_merged = (self._told(index, updates) for updates in (own, merged))
        expert = next(iter(self.networks.values())).expert
        edge = self.size // expert.vae.pixels_per_latent
        pictures = draw_pictures(
            self.networks,
            told,
            (expert.vae.latent_channels, edge, edge),
            self.noise,
            shows=index,
            cut=self.cut,
            go_on=lambda: go_on(0, self.spec.num_steps),
        )
        return Source(told=told, told_merged=told_merged, pictures=pictures)

    def _told(
        self, index: int, updates: Mapping[Target, Sequence[Weighted]]
    ) -> dict[Expert, Conditions]:
        return {
            name: conditions_of(
                network.expert,
                self.spec.prompts[index],
                self.adapters[index],
                updates if network.blend is not None else {},
                size=self.size,
                field=f"prompts[{index}]",
            )
            for name, network in self.networks.items()
        }

    def _text_updates(self, positions: Iterable[int]) -> dict[Target, list[Weighted]]:
        """Return what sources add to the text encoders together."""
        weights = self.spec.weights_of(len(self.adapters))
        found: dict[Target, list[Weighted]] = {}
        for position in positions:
            for target, low_rank in self.targets[position].items():
                if target.component not in UNETS:
                    found.setdefault(target, []).append((low_rank, weights[position]))
        return found


def _training(studio: _Studio, within: tuple[int, int] | None, go_on: Progress) -> Training:
    sources = [studio.source(index, go_on) for index in range(len(studio.adapters))]
    places = interval_places(studio.networks, cut=studio.cut, within=within)
    return Training(studio.networks, sources, places, studio.noise)


def _trained(
    stage: Stage, targets: Sequence[_Targets], hosted: Mapping[Expert, LoadedExpert]
) -> list[Expert]:
    """Return the experts whose networks the adapters change.

    Raises:
        ExpertMissing: One of them, which no other can stand for, is not hosted.
        InvalidRequest: They are EDM models, whose noise levels are no timesteps.
    """
    components = {target.component for own in targets for target in own}
    needed = list(hosted)
    if stage is not Stage.BOTH:
        needed = [Expert(stage)]
    elif Component.REFINER_UNET in components:
        needed = [Expert.BASE, Expert.REFINER]
    for name in needed:
        if name not in hosted:
            raise ExpertMissing(name)
        if hosted[name].schedule.edm is not None:
            problem = "zip does not train on EDM models, whose noise levels are no timesteps"
            raise InvalidRequest([FieldViolation(field="method", description=problem)])
    return needed


def _check_fit(adapters: Sequence[Adapter], name: Expert, expert: LoadedExpert) -> None:
    encoders = {encoder.name: encoder.module for encoder in expert.text.encoders}
    base = weights_of(name, expert.unet.module, encoders)
    for index, adapter in enumerate(adapters):
        if adapter.made_for.stage in {Stage.BOTH, Stage(name)}:
            check_shapes(adapter, base, name=f"adapters[{index}]")


def _by_layer(columns: Mapping[Target, Columns], name: Expert) -> dict[str, Columns]:
    """Return what one expert's network learns: a refiner's own, or what both share."""
    of_refiner = any(target.component is Component.REFINER_UNET for target in columns)
    component = Component.UNET
    if name is Expert.REFINER and of_refiner:
        component = Component.REFINER_UNET
    return {t.module: own for t, own in columns.items() if t.component is component}


def _packed(
    adapters: Sequence[Adapter],
    targets: Sequence[_Targets],
    columns: Sequence[Columns],
    *,
    spec: ZipSpec,
    stage: Stage,
) -> Merged:
    """Return the coefficients as an adapter, cut if that is asked."""
    cuts = spec.rank is not None or spec.energy is not None
    weights = spec.weights_of(len(adapters))
    cut = MergeSpec(method="svd", rank=spec.rank, energy=spec.energy)
    found = {one.target: one.packed() for one in columns}
    truncation: dict[tuple[str, str], float] = {}
    if cuts:
        shorter = merge([Adapter(targets=found)], cut)
        found = dict(shorter.adapter.targets)
        truncation = {(one.component, one.module): one.truncation for one in shorter.report.layers}
    layers = [
        report_of(
            one.target,
            found[one.target],
            _reference(one),
            truncation.get((one.target.component, one.target.module), 0.0),
        )
        for one in columns
    ]
    of_text = [
        Adapter(targets={t: low_rank for t, low_rank in own.items() if t.component not in UNETS})
        for own in targets
    ]
    if any(adapter.targets for adapter in of_text):
        plain = replace(cut, weights=weights) if cuts else MergeSpec(method="cat", weights=weights)
        texts = merge(of_text, plain)
        found |= texts.adapter.targets
        layers += texts.report.layers
    tokens, renamed = merge_tokens(adapters)
    adapter = Adapter(
        targets=MappingProxyType(found),
        tokens=MappingProxyType(tokens),
        made_for=merge_purposes(adapters, stage),
        trigger_words=merge_words(adapters, renamed),
        metadata=MappingProxyType(_metadata(adapters, spec)),
    )
    return Merged(adapter=adapter, report=MergeReport(layers=tuple(layers), renamed=renamed))


def _reference(columns: Columns) -> Factors:
    """Return the sum of w_i dW_i."""
    scaled = [(factors_of(part.low_rank), part.weight) for part in columns.parts]
    return Factors(
        up=torch.cat([factors.up * weight for factors, weight in scaled], dim=1),
        down=torch.cat([factors.down for factors, _ in scaled]),
    )


def _metadata(adapters: Sequence[Adapter], spec: ZipSpec) -> dict[str, str]:
    said = MergeSpec(
        method="zip", weights=spec.weights, rank=spec.rank, energy=spec.energy, seed=spec.seed
    )
    metadata = merge_metadata(adapters, said)
    more = {
        "prompts": list(spec.prompts),
        "num_steps": spec.num_steps,
        "learning_rate": spec.learning_rate,
        "overlap": spec.overlap,
    }
    return metadata | {MERGE_KEY: json.dumps(json.loads(metadata[MERGE_KEY]) | more)}
