"""Merging updates against PEFT's ``add_weighted_adapter``: seconds, memory and distance.

Factors are random and have the shapes of a real network's attention layers. Each distinct shape
is merged once per repeat by both sides, and seconds are multiplied by how many layers have it:
PEFT's full singular value decompositions of all of SDXL would take hours.
"""

import ctypes
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diptych.adapters.adapter import Adapter, Component, LowRank, Target
from diptych.adapters.merge.draws import Draw, chance_of, keep_by_chance
from diptych.adapters.merge.merging import merge
from diptych.adapters.merge.spec import MergeSpec
from diptych.bench.memory import resident_bytes
from diptych.bench.random_weights import UNET_CONFIGS
from diptych.errors import FieldViolation, InvalidRequest
from diptych.nano.pair import expert_path

__all__ = [
    "MAX_EXCESS",
    "METHODS",
    "MIN_SPEEDUP",
    "MergeConfig",
    "MergeReport",
    "MethodReport",
    "Side",
    "attention_shapes",
    "measure_merging",
]

MIN_SPEEDUP = 5.0
MAX_EXCESS = 1e-6
"""By how much, relatively, an error may exceed the least there is where PEFT's exceeds it less."""
METHODS: Final = ("ties", "dare_ties")
_PROJECTIONS: Final = ("to_q", "to_k", "to_v", "to_out.0")
_TARGET: Final = Target(component=Component.UNET, module="layer")
_LOOK_S: Final = 0.002
_SEED: Final = 1
Shape = tuple[int, int]
_Pair = tuple[Tensor, Tensor]
"""Factors up [out, r] and down [r, in]."""
_PeftModel = Any
"""What PEFT returns says little about itself to a type checker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """What is merged, how often."""

    num_adapters: int = 4
    rank: int = 16
    density: float = 0.5
    repeats: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side needed for all layers, and how near it came."""

    seconds: float
    """Medians by shape, times the layers of that shape."""
    peak_bytes: int
    """Most memory that a merge of one layer added to the process."""
    error: float
    """Relative error against its method in float64, with the same values dropped."""
    least_error: float
    """The least that its rank allows: the truncated SVD of that reference, in float64."""
    sum_error: float
    """Relative error against the plain weighted sum of the updates."""

    @property
    def excess(self) -> float:
        """Return by how much the error is larger than the least, relatively."""
        return self.error / self.least_error - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReport:
    """Both sides of one method."""

    method: str
    theirs: Side
    ours: Side

    @property
    def speedup(self) -> float:
        """Return how many times quicker we are."""
        return self.theirs.seconds / self.ours.seconds

    @property
    def is_as_near(self) -> bool:
        """Return whether our error is as near the least as PEFT's, or for all purposes the least.

        Where values are dropped at random the two drop different ones, so each error is judged
        by the least that was possible.
        """
        return self.ours.excess <= max(self.theirs.excess, MAX_EXCESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """All methods on one network's layers."""

    architecture: str
    num_layers: int
    num_adapters: int
    rank: int
    methods: tuple[MethodReport, ...]

    @property
    def holds(self) -> bool:
        """Return whether every method is quick and near enough."""
        return all(one.speedup >= MIN_SPEEDUP and one.is_as_near for one in self.methods)


def attention_shapes(architecture: str) -> Mapping[Shape, int]:
    """Return the weights [out, in] of all attention layers, and how many there are of each.

    Raises:
        InvalidRequest: There is no such architecture.
    """
    if architecture not in {"sdxl", "nano"}:
        problem = f"{architecture!r} is not one of sdxl, nano"
        raise InvalidRequest([FieldViolation(field="architecture", description=problem)])
    config: Mapping[str, Any] = UNET_CONFIGS["base"]
    if architecture == "nano":
        config = UNet2DConditionModel.load_config(expert_path("base") / "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    found = Counter(
        (module.weight.shape[0], module.weight.shape[1])
        for name, module in unet.named_modules()
        if name.endswith(_PROJECTIONS) and isinstance(module, nn.Linear)
    )
    return MappingProxyType(dict(found))


def measure_merging(
    shapes: Mapping[Shape, int],
    config: MergeConfig,
    *,
    architecture: str = "",
    progress: Callable[[], None] = lambda: None,
) -> MergeReport:
    """Merge layers of ``shapes`` with PEFT and with us.

    Args:
        shapes: Weight shape [out, in] -> how many layers have it.
        config: What is merged.
        architecture: Named in the report.
        progress: Called after every shape of every method.
    """
    with torch.random.fork_rng(devices=[]):
        reports = [_measure(method, shapes, config, progress) for method in METHODS]
    return MergeReport(
        architecture=architecture,
        num_layers=sum(shapes.values()),
        num_adapters=config.num_adapters,
        rank=config.rank,
        methods=tuple(reports),
    )


def _measure(
    method: str, shapes: Mapping[Shape, int], config: MergeConfig, progress: Callable[[], None]
) -> MethodReport:
    """Merge a layer of every shape, both sides in turn."""
    theirs, ours = _Tally(), _Tally()
    for shape, count in shapes.items():
        layer = _Layer.random(shape, method, config)
        for _ in range(config.repeats):
            model = layer.peft_model()
            theirs.timed(shape, partial(layer.merge_theirs, model))
            ours.timed(shape, layer.merge_ours)
        theirs.judge(layer, layer.their_masks(), theirs.last, count)
        ours.judge(layer, layer.our_masks(), ours.last, count)
        progress()
    return MethodReport(method=method, theirs=theirs.side(shapes), ours=ours.side(shapes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """Several random updates of one weight."""

    shape: Shape
    method: str
    config: MergeConfig
    weights: tuple[float, ...]
    low_ranks: tuple[LowRank, ...]

    @classmethod
    def random(cls, shape: Shape, method: str, config: MergeConfig) -> "_Layer":
        generator = torch.Generator().manual_seed(1000 * shape[0] + shape[1])
        out, fan_in = shape
        low_ranks = tuple(
            LowRank(
                down=torch.randn(config.rank, fan_in, generator=generator),
                up=torch.randn(out, config.rank, generator=generator),
                alpha=float(config.rank),
            )
            for _ in range(config.num_adapters)
        )
        weights = tuple(1 - 0.1 * index for index in range(config.num_adapters))
        return cls(shape=shape, method=method, config=config, weights=weights, low_ranks=low_ranks)

    def merge_ours(self) -> _Pair:
        """Merge with us; weights vote in neither, as PEFT has it."""
        spec = MergeSpec(
            method=self.method,
            weights=self.weights,
            density=self.config.density,
            rank=self.config.rank,
            seed=_SEED,
            weighted_vote=False,
        )
        adapters = [Adapter(targets={_TARGET: low_rank}) for low_rank in self.low_ranks]
        merged = merge(adapters, spec).adapter.targets[_TARGET]
        return merged.up, merged.down

    def merge_theirs(self, model: _PeftModel, combination_type: str | None = None) -> _Pair:
        """Merge with PEFT; torch's generator begins at the same seed."""
        names = [f"a{index}" for index in range(len(self.low_ranks))]
        torch.default_generator.manual_seed(_SEED)
        model.base_model.add_weighted_adapter(
            names,
            list(self.weights),
            "merged",
            combination_type=combination_type or f"{self.method}_svd",
            density=self.config.density,
        )
        layer = model.base_model.model[0]
        return layer.lora_B["merged"].weight.detach(), layer.lora_A["merged"].weight.detach()

    def our_masks(self) -> list[Tensor] | None:
        """Return which values our method kept at random."""
        if self.method != "dare_ties":
            return None
        chance, size = chance_of(self.config.density), torch.Size(self.shape)
        return [
            keep_by_chance(Draw(_SEED, position, _TARGET), size, chance, torch.device("cpu"))
            for position in range(len(self.low_ranks))
        ]

    def their_masks(self) -> list[Tensor] | None:
        """Return which values PEFT kept at random, drawn again.

        A linear merge takes as much of torch's generator for its new layer, and draws nothing.
        """
        if self.method != "dare_ties":
            return None
        self.merge_theirs(self.peft_model(), "linear")
        density = torch.full(self.shape, self.config.density)
        return [torch.bernoulli(density).bool() for _ in self.low_ranks]

    def exact(self, masks: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return the method's result and the plain weighted sum, in float64 and without a cut."""
        updates = torch.stack([(r.up.double() @ r.down.double()) * r.scale for r in self.low_ranks])
        weights = torch.tensor(self.weights, dtype=torch.float64).view(-1, 1, 1)
        density = self.config.density
        if masks is None:
            keep = int(density * updates[0].numel())
            floors = updates.abs().flatten(1).topk(keep, dim=1).values[:, -1]
            thinned = updates * (updates.abs() >= floors.view(-1, 1, 1))
        else:
            thinned = updates * torch.stack(list(masks)) / density
        agrees = thinned.sign() == torch.where(thinned.sum(0) >= 0, 1.0, -1.0)
        merged = (thinned * weights * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        return merged, (updates * weights).sum(0)

    def peft_model(self) -> _PeftModel:
        """Return PEFT's wrapper around one layer with all updates."""
        # Only those who measure against PEFT have it.
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415

        config = LoraConfig(r=self.config.rank, lora_alpha=self.config.rank, target_modules=["0"])
        out, fan_in = self.shape
        plain: Any = nn.Sequential(nn.Linear(fan_in, out, bias=False))
        model: Any = get_peft_model(plain, config, adapter_name="a0")
        for index, low_rank in enumerate(self.low_ranks):
            if index:
                model.add_adapter(f"a{index}", config)
            layer = model.base_model.model[0]
            layer.lora_A[f"a{index}"].weight.data = low_rank.down.clone()
            layer.lora_B[f"a{index}"].weight.data = low_rank.up.clone()
        return model


class _Tally:
    """What one side's merges took and how far off they were; filled shape by shape."""

    def __init__(self) -> None:
        self._seconds: dict[Shape, list[float]] = {}
        self._energies = {"error": 0.0, "least": 0.0, "of": 0.0, "sum": 0.0, "of_sum": 0.0}
        self._peak = 0
        self.last: _Pair = (torch.empty(0), torch.empty(0))

    def timed(self, shape: Shape, work: Callable[[], _Pair]) -> None:
        """Run ``work`` and keep its result, seconds and memory."""
        with _PeakMemory() as memory:
            began = time.perf_counter()
            self.last = work()
            self._seconds.setdefault(shape, []).append(time.perf_counter() - began)
        self._peak = max(self._peak, memory.added_bytes)

    def judge(self, layer: _Layer, masks: Sequence[Tensor] | None, pair: _Pair, count: int) -> None:
        """Compare the last result with what it should be; ``count`` layers are like it."""
        exact, plain_sum = layer.exact(masks)
        merged = pair[0].double() @ pair[1].double()
        rest = torch.linalg.svdvals(exact)[layer.config.rank :]
        for name, values in {
            "error": merged - exact,
            "least": rest,
            "of": exact,
            "sum": merged - plain_sum,
            "of_sum": plain_sum,
        }.items():
            self._energies[name] += count * float(values.square().sum())

    def side(self, shapes: Mapping[Shape, int]) -> Side:
        """Return the totals over all layers."""
        of = self._energies
        return Side(
            seconds=sum(
                statistics.median(self._seconds[shape]) * count for shape, count in shapes.items()
            ),
            peak_bytes=self._peak,
            error=math.sqrt(of["error"] / of["of"]),
            least_error=math.sqrt(of["least"] / of["of"]),
            sum_error=math.sqrt(of["sum"] / of["of_sum"]),
        )


class _PeakMemory:
    """Watches from a thread of its own how much this process grows."""

    def __init__(self) -> None:
        self._before = self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak-memory", daemon=True)

    def __enter__(self) -> "_PeakMemory":
        _give_back_memory()
        self._before = self._peak = resident_bytes()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def added_bytes(self) -> int:
        """Return the most that was held beyond what was held at the beginning."""
        return self._peak - self._before

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._peak = max(self._peak, resident_bytes())


def _give_back_memory() -> None:
    """Return freed memory to the system, or one side would work in what the other left."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
