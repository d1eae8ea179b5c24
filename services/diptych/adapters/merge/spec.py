"""How adapters are to be merged, and everything that can be wrong with such a wish.

Imports no torch: a request is checked before anything is loaded.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from types import MappingProxyType
from typing import Final, Literal

from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["FACTOR_METHODS", "MAX_ADAPTERS", "PRODUCT_METHODS", "MergeSpec", "Takes", "check_spec"]

MAX_ADAPTERS: Final = 32
"""Most adapters that one merge takes."""
_SEEDS: Final = 2**63
_DEFAULT_EPSILON: Final = 0.1


class Takes(Flag):
    """Which options a method listens to; what it would ignore is refused."""

    NOTHING = 0
    DENSITY = auto()
    ELECTION = auto()
    EPSILON = auto()
    POSITION = auto()
    RANK = auto()
    """It cuts its result, or can; a rank or a share of the energy may be given."""
    CUT = auto()
    """Its result needs a cut: without a rank, to the largest of the inputs."""


_PRUNED: Final = Takes.DENSITY | Takes.RANK | Takes.CUT
PRODUCT_METHODS: Final[Mapping[str, Takes]] = MappingProxyType(
    {
        "linear": Takes.RANK,
        "cat": Takes.NOTHING,
        "svd": Takes.RANK | Takes.CUT,
        "ties": _PRUNED | Takes.ELECTION,
        "dare_linear": _PRUNED,
        "dare_ties": _PRUNED | Takes.ELECTION,
        "magnitude_prune": _PRUNED,
        "della": _PRUNED | Takes.ELECTION | Takes.EPSILON,
        "della_linear": _PRUNED | Takes.EPSILON,
        "slerp": Takes.RANK | Takes.POSITION,
    }
)
"""Methods on the updates themselves -> what they listen to.

``ties_svd``, ``dare_ties_svd``, ``dare_linear_svd`` and ``magnitude_prune_svd`` are accepted as
names of what they are without the ending: in this space every cut is by singular values.
"""
FACTOR_METHODS: Final[Mapping[str, Takes]] = MappingProxyType(
    {
        "linear": Takes.NOTHING,
        "cat": Takes.NOTHING,
        "ties": Takes.DENSITY | Takes.ELECTION,
        "dare_linear": Takes.DENSITY,
        "dare_ties": Takes.DENSITY | Takes.ELECTION,
        "magnitude_prune": Takes.DENSITY,
        "svd": Takes.RANK | Takes.CUT,
        "ties_svd": _PRUNED | Takes.ELECTION,
        "dare_linear_svd": _PRUNED,
        "dare_ties_svd": _PRUNED | Takes.ELECTION,
        "magnitude_prune_svd": _PRUNED,
    }
)
"""PEFT's ``combination_type`` -> what it listens to."""
_METHODS: Final = {"product": PRODUCT_METHODS, "factors": FACTOR_METHODS}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSpec:
    """What to make of several adapters. None leaves an option to its method's default."""

    method: str
    space: Literal["product", "factors"] = "product"
    """``product``: operators act on dW = alpha / r * up @ down. ``factors``: PEFT's."""
    weights: tuple[float, ...] = ()
    """One per adapter; none at all are ones."""
    density: float | None = None
    """Share of the values that trimming or dropping keeps, in (0, 1]."""
    rank: int | None = None
    energy: float | None = None
    """Share of the squared Frobenius norm that the rank of each target must keep, in (0, 1]."""
    seed: int = 0
    """Of the values that are dropped at random."""
    election: Literal["total", "frequency"] | None = None
    weighted_vote: bool | None = None
    """Whether weights count when signs are elected: by default in space ``product`` only."""
    epsilon: float | None = None
    """DELLA: how far the chances to be kept lie apart, the smallest value's to the largest's."""
    scale: float = 1.0
    """The merged update is multiplied by this; TIES' and DELLA's lambda. Space ``product``."""
    position: float | None = None
    """SLERP: 0 is the first adapter, 1 the second; by default 0.5."""

    @property
    def operator(self) -> str:
        """Return the method without the ending that says how its result is cut."""
        return self.method if self.method == "svd" else self.method.removesuffix("_svd")

    @property
    def takes(self) -> Takes:
        """Return the options that the method listens to; it must be known."""
        return _takes(self.space, self.method) or Takes.NOTHING

    def weights_of(self, num_adapters: int) -> tuple[float, ...]:
        """Return a weight for each of ``num_adapters``."""
        return self.weights or (1.0,) * num_adapters

    @property
    def kept_share(self) -> float:
        """Return the density of a method that has one."""
        assert self.density is not None
        return self.density

    @property
    def spread(self) -> float:
        """Return epsilon or its default, less where the density leaves no room for it."""
        if self.epsilon is not None:
            return self.epsilon
        return min(_DEFAULT_EPSILON, self.kept_share, 2 * (1 - self.kept_share))

    @property
    def vote_is_weighted(self) -> bool:
        """Return whether weights count when signs are elected."""
        return self.space == "product" if self.weighted_vote is None else self.weighted_vote


def check_spec(spec: MergeSpec, num_adapters: int, *, max_rank: int) -> MergeSpec:
    """Return ``spec`` if ``num_adapters`` can be merged like that.

    Raises:
        InvalidRequest: They cannot; every violation is named.
    """
    found = [*_number_violations(spec, num_adapters, max_rank), *_method_violations(spec)]
    if found:
        raise InvalidRequest([FieldViolation(field=f, description=d) for f, d in found])
    return spec


def _takes(space: str, method: str) -> Takes | None:
    """Return what a method listens to, None if there is no such method or space."""
    methods = _METHODS.get(space, {})
    if space == "product" and method in FACTOR_METHODS:
        method = method if method == "svd" else method.removesuffix("_svd")
    return methods.get(method)


def _number_violations(
    spec: MergeSpec, num_adapters: int, max_rank: int
) -> Iterator[tuple[str, str]]:
    if not 1 <= num_adapters <= MAX_ADAPTERS:
        yield "adapters", f"{num_adapters} adapters, expected 1 to {MAX_ADAPTERS}"
    if spec.weights and len(spec.weights) != num_adapters:
        yield "weights", f"{len(spec.weights)} weights for {num_adapters} adapters"
    for index, weight in enumerate(spec.weights):
        if not math.isfinite(weight):
            yield f"weights[{index}]", f"{weight} is not a finite number"
    yield from _range_violations(spec, max_rank)
    if spec.operator == "slerp" and num_adapters != 2:
        yield "adapters", f"slerp goes from one adapter to another, not between {num_adapters}"


def _range_violations(spec: MergeSpec, max_rank: int) -> Iterator[tuple[str, str]]:
    for name, share in (("density", spec.density), ("energy", spec.energy)):
        if share is not None and not 0 < share <= 1:
            yield name, f"{share} is outside (0, 1]"
    if spec.rank is not None and not 1 <= spec.rank <= max_rank:
        yield "rank", f"{spec.rank} is outside 1 to {max_rank}"
    if spec.rank is not None and spec.energy is not None:
        yield "energy", "a rank is given too; give one of them"
    if not 0 <= spec.seed < _SEEDS:
        yield "seed", f"{spec.seed} is outside 0 to 2^63 - 1"
    if not math.isfinite(spec.scale):
        yield "scale", f"{spec.scale} is not a finite number"
    if spec.position is not None and not 0 <= spec.position <= 1:
        yield "position", f"{spec.position} is outside [0, 1]"


def _method_violations(spec: MergeSpec) -> Iterator[tuple[str, str]]:
    if spec.space not in _METHODS:
        yield "space", f"{spec.space!r:.40} is not one of {', '.join(_METHODS)}"
        return
    takes = _takes(spec.space, spec.method)
    if takes is None:
        known = ", ".join(_METHODS[spec.space])
        yield "method", f"{spec.method!r:.40} in space {spec.space} is not one of {known}"
        return
    if takes & Takes.DENSITY and spec.density is None:
        yield "density", f"method {spec.method} needs one"
    if spec.election not in {None, "total", "frequency"}:
        yield "election", f"{spec.election!r:.40} is not one of total, frequency"
    given = {
        "density": (spec.density, Takes.DENSITY),
        "rank": (spec.rank, Takes.RANK),
        "energy": (spec.energy, Takes.RANK),
        "election": (spec.election, Takes.ELECTION),
        "weighted_vote": (spec.weighted_vote, Takes.ELECTION),
        "epsilon": (spec.epsilon, Takes.EPSILON),
        "position": (spec.position, Takes.POSITION),
    }
    for name, (value, listener) in given.items():
        if value is not None and not takes & listener:
            yield name, f"method {spec.method} has no use for it"
    if spec.space == "factors":
        yield from _factor_violations(spec)
    if takes & Takes.EPSILON and spec.density is not None:
        yield from _epsilon_violations(spec)


def _factor_violations(spec: MergeSpec) -> Iterator[tuple[str, str]]:
    if spec.weighted_vote:
        yield "weighted_vote", "in space factors, as in PEFT, weights do not vote"
    if spec.energy is not None:
        yield "energy", "space factors is PEFT's, which takes a rank only"
    if spec.scale != 1.0:
        yield "scale", "space factors is PEFT's, which has none; scale the weights"


def _epsilon_violations(spec: MergeSpec) -> Iterator[tuple[str, str]]:
    low, high = spec.kept_share - spec.spread / 2, spec.kept_share + spec.spread / 2
    if not (spec.spread >= 0 and low > 0 and high <= 1):
        yield "epsilon", f"chances from {low:g} to {high:g} are not all in (0, 1]"
