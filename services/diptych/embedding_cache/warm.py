"""Warming up: whatever a dataset needs is there before training begins, encoded once.

A manifest is expanded into its index, the index planned, and every embedding that the plan asks for
listed by its key. A root keeps them from being collected before the first one is made. What is
missing an engine makes; what is there already, whoever made it, is only counted - so a warm-up that
was killed goes on where it stopped, and one for the second stage of a fine-tune finds the first's.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from diptych.datasets.expansion import Expansion
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.findings import Finding, Reason
from diptych.datasets.index import Index
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.plan import make_plans
from diptych.datasets.spec import Manifest
from diptych.embedding_cache.claims import Claims
from diptych.embedding_cache.dataset_images import DatasetImages
from diptych.embedding_cache.needs import Need, Needs, list_needs
from diptych.embedding_cache.ports import (
    Encoding,
    GoOn,
    NeedsConfig,
    Stage,
    WarmOrder,
    WarmOutcome,
    WarmStore,
)
from diptych.embedding_cache.tally import Progress, Tally
from diptych.errors import ExpertMissing

__all__ = ["Engine", "WarmConfig", "Warmer"]

_UNUSABLE: Final[frozenset[Reason]] = frozenset(
    {"image_invalid", "image_too_large", "unreadable", "source_cut", "row_without_image"}
)
"""Why an image cannot be used; others are left out because the manifest says so."""
_AT_ONCE: Final = 4096


class Engine(Protocol):
    """Makes embeddings, here or on other machines."""

    def encode(
        self,
        needs: Sequence[Need],
        *,
        images: DatasetImages,
        claims: Claims,
        tally: Tally,
        go_on: GoOn,
    ) -> None:
        """Make those of ``needs`` that are missing; the tally hears of all of them.

        Raises:
            DiptychError: It cannot go on; what was made stays.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmConfig:
    """What may be read."""

    folder: Path
    """Where a manifest's relative paths begin."""
    places: Places = EVERYWHERE
    facts: Path | None = None
    """File that remembers images between warm-ups; None remembers none."""


class Warmer:
    """Implements ``ports.Warming``; several may warm up at once, here and elsewhere."""

    def __init__(
        self,
        encodings: Mapping[Stage, Encoding],
        *,
        store_of: Callable[[str], WarmStore],
        claims_of: Callable[[str, str], Claims],
        engine_of: Callable[[WarmStore], Engine],
        config: WarmConfig,
    ) -> None:
        """Set up.

        Args:
            encodings: Of the stages that may be warmed up for.
            store_of: Opens a tenant's store.
            claims_of: Opens a tenant's claims on the work of a dataset, by its digest.
            engine_of: Returns what makes embeddings and writes them to a store.
            config: What is read and needed.
        """
        self._encodings, self._config = encodings, config
        self._store_of, self._claims_of, self._engine_of = store_of, claims_of, engine_of

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages that there are encoders of."""
        return tuple(self._encodings)

    def warm(
        self,
        order: WarmOrder,
        *,
        tenant: str,
        go_on: GoOn,
        progress: Progress,
    ) -> WarmOutcome:
        """Encode what the dataset of a manifest's text is missing.

        Raises:
            DatasetInvalid: The manifest cannot be used, or all of it bypasses the cache.
            ExpertMissing: There are no encoders of a stage.
            DiptychError: It cannot go on, as ``Engine.encode``; what was made stays.
        """
        config = self._config
        manifest = parse_manifest(
            order.manifest.encode(), folder=config.folder, places=config.places
        )
        return self.warm_manifest(
            manifest,
            order.stages,
            order.needs,
            tenant=tenant,
            go_on=go_on,
            progress=progress,
        )

    def warm_manifest(
        self,
        manifest: Manifest,
        stages: Sequence[Stage],
        wanted: NeedsConfig,
        *,
        tenant: str,
        go_on: GoOn,
        progress: Progress,
    ) -> WarmOutcome:
        """Encode what a dataset is missing; raises as ``warm`` does."""
        index, findings = self._expanded(manifest, go_on)
        needs = self._needs(index, stages, wanted)
        store = self._store_of(tenant)
        store.sweep()
        for stage, keys in needs.kept.items():
            store.hold(f"datasets/{index.digest.hex}/{stage.value}", keys)
        tally = Tally(len(needs.needs), progress)
        for finding in findings:
            tally.failed(f"{finding.dataset}: {finding.place}", finding.detail or finding.reason)
        images = DatasetImages(index.datasets, self._config.places)
        made = self._look(store, needs, tally)
        claims = self._claims_of(tenant, index.digest.hex)
        try:
            engine = self._engine_of(store)
            engine.encode(made, images=images, claims=claims, tally=tally, go_on=go_on)
        finally:
            claims.close()
        return WarmOutcome(
            dataset=index.digest,
            num_total=tally.num_total,
            num_present=tally.num_present,
            num_encoded=tally.num_encoded,
            failures=tuple(tally.failures),
            num_cut=needs.num_cut,
            left_out=needs.left_out,
        )

    def _expanded(self, manifest: Manifest, go_on: GoOn) -> tuple[Index, list[Finding]]:
        """Return the index, and the images that are not in it though they should be."""
        config = self._config
        with nullcontext() if config.facts is None else FactsCache(config.facts) as cache:
            expansion = Expansion(places=config.places, cache=cache, progress=lambda *_: go_on())
            index = expansion.index(manifest)
        return index, [one for one in expansion.findings if one.reason in _UNUSABLE]

    def _needs(self, index: Index, stages: Sequence[Stage], wanted: NeedsConfig) -> Needs:
        for stage in stages:
            if stage not in self._encodings:
                raise ExpertMissing(stage.value)
        plans = make_plans(index, batch_size=wanted.batch_size)
        encodings = {stage: self._encodings[stage] for stage in dict.fromkeys(stages)}
        return list_needs(plans.values(), encodings, wanted)

    def _look(self, store: WarmStore, needs: Needs, tally: Tally) -> list[Need]:
        """Return what is to be made, and count what is there of what may only be read."""
        absent: Counter[tuple[str, str]] = Counter()
        for at in range(0, len(needs.needs), _AT_ONCE):
            some = needs.needs[at : at + _AT_ONCE]
            located = store.locate([need.key for need in some])
            for need in some:
                store.count(located.get(need.key), kind=need.kind)
                if not need.is_made:
                    if need.key in located:
                        tally.present(1)
                    else:
                        absent[need.dataset, need.kind] += 1
        for (dataset, kind), count in sorted(absent.items()):
            tally.failed(f"{dataset} {kind}s", f"{count} are missing, and none may be made")
        return [need for need in needs.needs if need.is_made]
