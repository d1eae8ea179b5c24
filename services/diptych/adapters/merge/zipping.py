"""ZipLoRA (Shah et al. 2023): a merge whose columns are weighed by what the network then does.

Each source's update gets a factor per input: dW = sum_i alpha_i / r_i * B_i A_i diag(m_i). Only
the m_i are learned; packed into the downs, they leave an ordinary low-rank update of the summed
rank. They begin at the sources' weights, where the result is ``cat``'s to the bit.

The paper's third term is the sum over layers of ``|m_c . m_s|``. Here that inner product is
divided by the number of inputs and averaged over layers, so that its weight means the same for
every network, and summed over all pairs of sources. While no m changes its sign it equals the sum
of ``|m_c * m_s|`` by elements that another implementation takes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import MAX_RANK, Adapter, LowRank, Target
from diptych.adapters.merge.identity import family_violations, on_experts
from diptych.adapters.merge.product import Part, result_dtype
from diptych.adapters.merge.spec import MAX_ADAPTERS
from diptych.adapters.naming import Component
from diptych.errors import EngineFault, FieldViolation, InvalidRequest

__all__ = ["Columns", "ZipSpec", "check_zip", "columns_of", "overlap_of", "train"]

UNETS: Final = (Component.UNET, Component.REFINER_UNET)
MAX_STEPS: Final = 1000
_SEEDS: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipSpec:
    """How adapters are zipped."""

    prompts: tuple[str, ...]
    """What each source should still do in the merge, one per source."""
    weights: tuple[float, ...] = ()
    """How much of each source: what is kept is its effect at this weight. None at all are ones."""
    num_steps: int = 100
    learning_rate: float = 0.01
    """Adam's, on factors that begin at 1."""
    overlap: float = 0.01
    """Weight of the coefficients' overlap; the paper's lambda."""
    seed: int = 0
    rank: int | None = None
    """Cut every target to this rank; None keeps the sum of the sources'."""
    energy: float | None = None
    """Or to the smallest rank with this share of the squared norm, in (0, 1]."""

    def weights_of(self, num_adapters: int) -> tuple[float, ...]:
        """Return a weight for each of ``num_adapters``."""
        return self.weights or (1.0,) * num_adapters


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """One target of a zip: all sources' factors, and the coefficients that are learned."""

    target: Target
    parts: tuple[Part, ...]
    ups: Tensor
    """[out, R] float32, times alpha / r and the source's weight."""
    downs: Tensor
    """[R, in, ...] float32."""
    learned: Tensor
    """[parts, in] float32: m over the source's weight; begins at ones."""
    owners: Tensor
    """[R]: which part a line of the factors belongs to."""

    @property
    def coefficients(self) -> Tensor:
        """Return m [parts, in]."""
        weights = [part.weight for part in self.parts]
        return self.learned * torch.tensor(weights, device=self.learned.device)[:, None]

    def merged_down(self) -> Tensor:
        """Return the downs with their columns weighed, [R, in, ...]."""
        kernel = [1] * (self.downs.ndim - 2)
        return self.downs * self.learned[self.owners].view(*self.downs.shape[:2], *kernel)

    def of_source(self, position: int) -> tuple[Tensor, Tensor] | None:
        """Return one source's up and down as they came, None if it lacks the target."""
        for index, part in enumerate(self.parts):
            if part.position == position:
                lines = self.owners == index
                return self.ups[:, lines], self.downs[lines]
        return None

    def packed(self) -> LowRank:
        """Return the merged update: every source's factors, m in the downs."""
        low_ranks = [part.low_rank for part in self.parts]
        dtype = result_dtype(low_ranks)
        ups = [p.low_rank.up.double() * (p.low_rank.scale * p.weight) for p in self.parts]
        learned = self.learned.detach().cpu().double()
        downs = [
            p.low_rank.down.double() * own.view(1, -1, *[1] * (p.low_rank.down.ndim - 2))
            for p, own in zip(self.parts, learned, strict=True)
        ]
        down = torch.cat(downs).to(dtype)
        return LowRank(down=down, up=torch.cat(ups, dim=1).to(dtype), alpha=float(len(down)))


def check_zip(adapters: Sequence[Adapter], spec: ZipSpec) -> None:
    """Return if ``adapters`` can be zipped as ``spec`` says.

    Raises:
        InvalidRequest: They cannot; every violation is named.
    """
    found = [*_number_violations(len(adapters), spec), *family_violations(adapters)]
    found += _adapter_violations(adapters)
    if not found and spec.rank is None and spec.energy is None:
        _, targets = on_experts(adapters)
        for target in sorted({target for of_adapter in targets for target in of_adapter}):
            rank = sum(own[target].rank for own in targets if target in own)
            if rank > MAX_RANK:
                name = f"{target.component}.{target.module}"
                problem = f"zip makes {name} of rank {rank}, over the limit of {MAX_RANK}"
                found.append(("rank", f"{problem}; give a rank"))
                break
    if found:
        raise InvalidRequest([FieldViolation(field=f, description=d) for f, d in found])


def columns_of(
    targets: Sequence[Mapping[Target, LowRank]], weights: Sequence[float], device: torch.device
) -> dict[Target, Columns]:
    """Return what is learned of each UNet target, on ``device``.

    Args:
        targets: Each source's, as ``identity.on_experts`` names them.
        weights: One per source, none of them 0.
        device: Where the network is.
    """
    found: dict[Target, list[Part]] = {}
    for position, (own, weight) in enumerate(zip(targets, weights, strict=True)):
        for target, low_rank in own.items():
            if target.component in UNETS:
                part = Part(position=position, weight=weight, low_rank=low_rank)
                found.setdefault(target, []).append(part)
    return {target: _columns(target, found[target], device) for target in sorted(found)}


def overlap_of(columns: Sequence[Columns]) -> Tensor:
    """Return how much sources share inputs: the mean over targets that several of them change.

    Of each target, the sum over pairs of sources of ``|m_i . m_j| / in``.
    """
    found: list[Tensor] = []
    for one in columns:
        if len(one.parts) > 1:
            m = one.coefficients
            products = (m @ m.T).abs() / m.shape[1]
            found.append(products.triu(diagonal=1).sum())
    return torch.stack(found).mean() if found else torch.zeros(())


def train(
    columns: Sequence[Columns],
    loss_at: Callable[[int], Tensor],
    spec: ZipSpec,
    progress: Callable[[int, int], None],
) -> None:
    """Learn the coefficients, in place.

    Args:
        columns: Whose ``learned`` are changed.
        loss_at: The data's loss at a step, a function of the coefficients.
        spec: How long, how fast, and the weight of the overlap.
        progress: Told after each step, of how many; what it raises ends the training.

    Raises:
        EngineFault: The loss is not a finite number.
    """
    optimizer = torch.optim.Adam([one.learned for one in columns], lr=spec.learning_rate)
    for step in range(spec.num_steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            data = loss_at(step)
            loss = data + spec.overlap * overlap_of(columns).to(data.device)
        reached = float(loss.detach())
        if not math.isfinite(reached):
            raise EngineFault(f"the loss of a zip is {reached} at step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(step + 1, spec.num_steps)


def _columns(target: Target, parts: Sequence[Part], device: torch.device) -> Columns:
    ups = [p.low_rank.up.double() * (p.low_rank.scale * p.weight) for p in parts]
    downs = torch.cat([p.low_rank.down.float() for p in parts])
    ranks = torch.tensor([p.low_rank.rank for p in parts])
    learned = torch.ones(len(parts), downs.shape[1], device=device, requires_grad=True)
    return Columns(
        target=target,
        parts=tuple(parts),
        ups=torch.cat(ups, dim=1).float().to(device),
        downs=downs.to(device),
        learned=learned,
        owners=torch.arange(len(parts)).repeat_interleave(ranks).to(device),
    )


def _number_violations(num_adapters: int, spec: ZipSpec) -> Iterator[tuple[str, str]]:
    if not 2 <= num_adapters <= MAX_ADAPTERS:
        yield "adapters", f"{num_adapters} adapters, expected 2 to {MAX_ADAPTERS}"
    if len(spec.prompts) != num_adapters:
        yield "prompts", f"{len(spec.prompts)} prompts for {num_adapters} adapters"
    if spec.weights and len(spec.weights) != num_adapters:
        yield "weights", f"{len(spec.weights)} weights for {num_adapters} adapters"
    for index, weight in enumerate(spec.weights):
        if not math.isfinite(weight) or weight == 0:
            yield f"weights[{index}]", f"{weight} is not a finite number other than 0"
    if not 1 <= spec.num_steps <= MAX_STEPS:
        yield "num_steps", f"{spec.num_steps} is outside 1 to {MAX_STEPS}"
    if not (math.isfinite(spec.learning_rate) and spec.learning_rate > 0):
        yield "learning_rate", f"{spec.learning_rate} is not a finite number above 0"
    if not (math.isfinite(spec.overlap) and spec.overlap >= 0):
        yield "overlap", f"{spec.overlap} is not a finite number from 0"
    if not 0 <= spec.seed < _SEEDS:
        yield "seed", f"{spec.seed} is outside 0 to 2^63 - 1"
    yield from _cut_violations(spec)


def _cut_violations(spec: ZipSpec) -> Iterator[tuple[str, str]]:
    if spec.rank is not None and not 1 <= spec.rank <= MAX_RANK:
        yield "rank", f"{spec.rank} is outside 1 to {MAX_RANK}"
    if spec.energy is not None and not 0 < spec.energy <= 1:
        yield "energy", f"{spec.energy} is outside (0, 1]"
    if spec.rank is not None and spec.energy is not None:
        yield "energy", "a rank is given too; give one of them"


def _adapter_violations(adapters: Sequence[Adapter]) -> Iterator[tuple[str, str]]:
    for index, adapter in enumerate(adapters):
        if not any(target.component in UNETS for target in adapter.targets):
            yield f"adapters[{index}]", "changes no UNet, whose columns are what zip weighs"
        if any(low_rank.magnitude is not None for low_rank in adapter.targets.values()):
            problem = "is a DoRA, whose update is no product of factors; zip takes plain LoRA"
            yield f"adapters[{index}]", problem
