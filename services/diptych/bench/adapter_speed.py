"""What adapters cost: in a batch of unlike ones, and against diffusers that changes them.

All sides do the same work in the same process, in turns, and every number is the median of the
paired repeats.
"""

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from diptych.adapters.writing import write_adapter
from diptych.bench.adapter_makers import ATTENTION, TRANSFORMERS, Made, make, of_base
from diptych.bench.direct import Direct, image_request
from diptych.bench.recipes import SEED_RECIPE, Recipe, mixed_recipes
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving, paint_calls
from diptych.bench.throughput import Pairs, pair_up
from diptych.clients.adapter_values import ImportCall
from diptych.clients.calls import AdapterChoice
from diptych.inference.adapter_units import unit_of
from diptych.inference.trajectory import AdapterUse, ImageRequest
from diptych.models.experts import Experts

__all__ = [
    "MAX_BATCH_RATIO",
    "MIN_OVER_LOADING",
    "MIN_OVER_RESIDENT",
    "AdapterSpeed",
    "SpeedConfig",
    "measure_adapters",
    "unlike_requests",
]

MAX_BATCH_RATIO: Final = 1.25
MIN_OVER_RESIDENT: Final = 3.0
MIN_OVER_LOADING: Final = 6.0
_SCALE: Final = 0.8
_WARM_REQUESTS: Final = 4
_LAYERS: Final = {"attention": ATTENTION, "transformers": TRANSFORMERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedConfig:
    """What is measured, and how often."""

    rank: int = 16
    num_images: int = 8
    """Of the batch, each with an adapter of its own."""
    num_steps: int = 20
    """Of the batch, guided."""
    num_requests: int = 64
    request_steps: int | None = None
    """None gives every request its own."""
    num_adapters: int = 16
    """That the requests share, the k-th as often as 1 / k (Zipf)."""
    repeats: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpeed:
    """What ``bench adapters`` finds on the nano pair."""

    config: SpeedConfig
    batches: dict[str, Pairs]
    """By the layers adapted: the batch with adapters, against the same batch without."""
    resident: Pairs
    """All requests at once, against diffusers with ``set_adapters`` before each."""
    loading: Pairs
    """The same, against diffusers that loads and unloads each one's adapter."""

    @property
    def batch_ratios(self) -> dict[str, float]:
        """Return the seconds of the batch with adapters over those without."""
        return {layers: 1 / pairs.ratio for layers, pairs in self.batches.items()}

    @property
    def holds(self) -> bool:
        """Whether everything is within what is promised."""
        cheap = max(self.batch_ratios.values()) <= MAX_BATCH_RATIO
        fast = self.resident.ratio >= MIN_OVER_RESIDENT and self.loading.ratio >= MIN_OVER_LOADING
        return cheap and fast


def measure_adapters(
    server: Serving,
    reference: Reference,
    direct: Direct,
    *,
    config: SpeedConfig,
    folder: Path,
    progress: Callable[[], None] = lambda: None,
) -> AdapterSpeed:
    """Measure batches in a plain loop, then a server against diffusers.

    Args:
        server: Serves nobody else.
        reference: diffusers' pipelines over the same checkpoints; copies of them are changed.
        direct: The same checkpoints without a server, and without adapters so far.
        config: What to measure.
        folder: Empty; adapters are put there for diffusers.
        progress: Called after every repeat.
    """
    batches = {}
    for number, (layers, pattern) in enumerate(_LAYERS.items()):
        made = Made(seed=1000 * number, rank=config.rank, layers=pattern)
        plain, adapted = unlike_requests(direct, server.experts, made, config=config)
        batches[layers] = pair_up(
            partial(direct.latents, adapted), partial(direct.latents, plain), config.repeats
        )
        progress()
    names = _share(server, folder, config)
    recipes = [
        replace(recipe, num_steps=config.request_steps or recipe.num_steps)
        for recipe in mixed_recipes(config.num_requests)
    ]
    rng = random.Random(0)  # noqa: S311 - a reproducible workload, not a secret
    weights = [1 / (k + 1) for k in range(len(names))]
    orders = list(zip(recipes, rng.choices(names, weights, k=len(recipes)), strict=True))
    resident, loading = _measure_serving(
        server, _Changing.of(reference, folder, names), orders, config, progress
    )
    return AdapterSpeed(config=config, batches=batches, resident=resident, loading=loading)


def unlike_requests(
    direct: Direct, experts: Experts, made: Made, *, config: SpeedConfig
) -> tuple[list[ImageRequest], list[ImageRequest]]:
    """Return requests without adapters, and the same each with one of its own on the device."""
    base = of_base(experts)
    recipe = replace(SEED_RECIPE, num_steps=config.num_steps, solver="euler", boundary=0.5)
    plain, adapted = [], []
    for number in range(config.num_images):
        own = replace(made, seed=made.seed + number)
        name = f"adapter-{own.seed}"
        use = AdapterUse(digest=f"sha256:{name}", name=name, scale=_SCALE)
        prepared = direct.executor.bind([use], [make(own, base)])
        direct.executor.attach(unit_of(use), prepared)
        plain.append(image_request(replace(recipe, seed=number)))
        adapted.append(replace(plain[-1], adapters=(use,)))
    return plain, adapted


Order = tuple[Recipe, str]
"""What to paint, and the adapter's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changing:
    """diffusers' pipelines twice over: with all adapters loaded, and with none."""

    resident: Reference
    bare: Reference
    folder: Path

    @classmethod
    def of(cls, reference: Reference, folder: Path, names: Sequence[str]) -> "_Changing":
        resident, bare = (
            replace(
                reference,
                base=copy.deepcopy(reference.base),
                refiner=copy.deepcopy(reference.refiner),
            )
            for _ in range(2)
        )
        found = cls(resident=resident, bare=bare, folder=folder)
        for pipeline in (resident.base, resident.refiner):
            for name in names:
                found.load(pipeline, name)
        return found

    def load(self, pipeline: Any, name: str) -> None:  # noqa: ANN401 - diffusers is untyped
        pipeline.load_lora_weights(
            str(self.folder), weight_name=f"{name}.safetensors", adapter_name=name
        )

    def paint_resident(self, orders: Sequence[Order]) -> None:
        """Say which adapter acts before each request."""
        for recipe, name in orders:
            for pipeline in (self.resident.base, self.resident.refiner):
                pipeline.set_adapters([name], adapter_weights=[_SCALE])
            self.resident.pictures(recipe)

    def paint_loading(self, orders: Sequence[Order]) -> None:
        """Load the adapter of each request and unload it again."""
        for recipe, name in orders:
            pipelines = (self.bare.base, self.bare.refiner)
            for pipeline in pipelines:
                self.load(pipeline, name)
                pipeline.set_adapters([name], adapter_weights=[_SCALE])
            self.bare.pictures(recipe)
            for pipeline in pipelines:
                pipeline.unload_lora_weights()


def _share(server: Serving, folder: Path, config: SpeedConfig) -> list[str]:
    """Give the server and diffusers the same files and return the adapters' names."""
    base = of_base(server.experts)
    names = [f"shared-{number}" for number in range(config.num_adapters)]
    for number, name in enumerate(names):
        adapter = make(Made(seed=5000 + number, rank=config.rank), base)
        (data,) = write_adapter(adapter, "diffusers").values()
        (folder / f"{name}.safetensors").write_bytes(data)
        server.adapters.import_adapter(
            ImportCall(name=name, source=data, family="nano", stage="both")
        )
    return names


def _measure_serving(
    server: Serving,
    theirs: _Changing,
    orders: Sequence[Order],
    config: SpeedConfig,
    progress: Callable[[], None],
) -> tuple[Pairs, Pairs]:
    calls = [
        replace(recipe.call("png"), adapters=[AdapterChoice(adapter=name, scale=_SCALE)])
        for recipe, name in orders
    ]
    paint_calls(server.client, calls)
    theirs.paint_resident(orders[:_WARM_REQUESTS])
    theirs.paint_loading(orders[:_WARM_REQUESTS])
    ours_s, resident_s, loading_s = [], [], []
    for _ in range(config.repeats):
        ours_s.append(_seconds(lambda: paint_calls(server.client, calls)))
        resident_s.append(_seconds(lambda: theirs.paint_resident(orders)))
        loading_s.append(_seconds(lambda: theirs.paint_loading(orders)))
        progress()
    return (
        Pairs(ours_s=tuple(ours_s), theirs_s=tuple(resident_s)),
        Pairs(ours_s=tuple(ours_s), theirs_s=tuple(loading_s)),
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
