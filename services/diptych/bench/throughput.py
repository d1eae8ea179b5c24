"""Requests served at once against diffusers' two pipelines called one after another.

Both sides do the same work in the same process, in turns (A B A B), and every number is the
median of the paired repeats.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.bench.direct import Direct, image_request
from diptych.bench.recipes import Recipe
from diptych.bench.reference import Reference
from diptych.bench.serving import paint_all
from diptych.clients.inference import InferenceClient

__all__ = [
    "MAX_LATENCY_RATIO",
    "MAX_OVERHEAD",
    "MIN_THROUGHPUT_RATIO",
    "Pairs",
    "Throughput",
    "measure_throughput",
    "pair_up",
]

MIN_THROUGHPUT_RATIO = 2.0
MAX_LATENCY_RATIO = 1.05
MAX_OVERHEAD = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Seconds of the same work done by us and by another, repeat by repeat."""

    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Return the median of theirs / ours: how many times faster we are."""
        pairs = zip(self.ours_s, self.theirs_s, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    @property
    def median_ours_s(self) -> float:
        """Return our median seconds."""
        return statistics.median(self.ours_s)

    @property
    def median_theirs_s(self) -> float:
        """Return the other's median seconds."""
        return statistics.median(self.theirs_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What ``bench inference`` finds on the pair it is given."""

    num_requests: int
    many: Pairs
    """All requests at once, against the pipelines one request after another."""
    single: Pairs
    """One request alone, against the pipelines."""
    bare: Pairs
    """One request alone, against the same networks in a plain loop without engine and gRPC."""

    @property
    def latency_ratio(self) -> float:
        """Return our latency over diffusers' for one request."""
        return 1 / self.single.ratio

    @property
    def overhead(self) -> float:
        """Return what engine and gRPC add to one request, as a share of the plain loop."""
        return 1 / self.bare.ratio - 1

    @property
    def holds(self) -> bool:
        """Whether all three are within what is promised."""
        fast = self.many.ratio >= MIN_THROUGHPUT_RATIO and self.latency_ratio <= MAX_LATENCY_RATIO
        return fast and self.overhead < MAX_OVERHEAD


def measure_throughput(
    client: InferenceClient,
    reference: Reference,
    direct: Direct,
    *,
    recipes: Sequence[Recipe],
    single: Recipe,
    repeats: int,
) -> Throughput:
    """Measure the server behind ``client`` against ``reference`` and ``direct``.

    Args:
        client: Of a server in this process that serves nobody else.
        reference: diffusers' pipelines over the same checkpoints.
        direct: The same checkpoints without a server.
        recipes: What is asked for at once.
        single: What is asked for alone.
        repeats: Pairs of runs of each comparison; one more before them is not counted.
    """

    def one_after_another() -> None:
        for recipe in recipes:
            reference.pictures(recipe)

    request = image_request(single)
    return Throughput(
        num_requests=len(recipes),
        many=pair_up(lambda: paint_all(client, recipes), one_after_another, repeats),
        single=pair_up(
            lambda: client.generate_images(single.call("png")),
            lambda: reference.pictures(single),
            repeats,
        ),
        bare=pair_up(
            lambda: client.generate_images(single.call("png")),
            lambda: direct.pictures([request]),
            repeats,
        ),
    )


def pair_up(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> Pairs:
    """Time both in turns, ``repeats`` times each, after one uncounted turn of each."""
    timed = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats + 1)][1:]
    return Pairs(ours_s=tuple(a for a, _ in timed), theirs_s=tuple(b for _, b in timed))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
