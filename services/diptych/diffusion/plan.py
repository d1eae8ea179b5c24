"""A trajectory worked out before it starts: one small matrix for every evaluation of the model."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.diffusion.asked import Asked, refuse, violations_of
from diptych.diffusion.lattice import Lattice
from diptych.diffusion.schedule import NoiseSchedule
from diptych.diffusion.solvers.registry import SolverConfig, build_lattice, traits_of
from diptych.diffusion.split import boundary_timestep
from diptych.diffusion.symbols import NUM_INPUTS, NUM_STATES, Evaluation

__all__ = ["BASE", "REFINER", "Plan", "make_plan"]

BASE: Final = 0
REFINER: Final = 1

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Everything about one trajectory but its latents; immutable and shared between images.

    Its arrays are float64 and read-only; a copy in float32 goes to the device.
    """

    timestep: Array
    """What the model is told, [E]."""
    c_in: Array
    """The model sees ``c_in * x``, [E]."""
    matrix: Array
    """(x, x_last, h1, h2, model, noise) -> (x, x_last, h1, h2), [E, 4, 6]."""
    denoised: Array
    """The same inputs -> the estimate of x0 before the evaluation, [E, 6]."""
    needs_noise: NDArray[np.bool_]
    """Whether a noise is drawn, [E]; its coefficient may still be zero."""
    expert: NDArray[np.int64]
    """BASE or REFINER, [E]; the base's evaluations come first."""
    step: NDArray[np.int64]
    """The step each evaluation belongs to, counted from 1, [E]. Heun takes two for most."""
    fraction: Array
    """Where in the schedule each evaluation lies, noise first, in (0, 1], [E].

    On the scale of ``boundary``: the base owns fractions up to it.
    """
    num_steps: int
    init_signal: float
    """The start is ``init_signal * latents + init_noise_sigma * noise``; 0 from pure noise."""
    init_noise_sigma: float
    """Scale of the initial noise; 0 where latents are taken as they are and nothing is drawn."""

    @property
    def num_evaluations(self) -> int:
        """Calls of the model."""
        return len(self.timestep)

    @property
    def base_evaluations(self) -> slice:
        """The evaluations of the base expert."""
        return slice(0, int(np.count_nonzero(self.expert == BASE)))

    @property
    def refiner_evaluations(self) -> slice:
        """The evaluations of the refiner."""
        return slice(self.base_evaluations.stop, self.num_evaluations)


def make_plan(
    schedule: NoiseSchedule,
    solver: SolverConfig,
    num_steps: int,
    *,
    experts: tuple[str, ...] = ("base", "refiner"),
    boundary: float | None = None,
    strength: float | None = None,
) -> Plan:
    """Return the plan of one trajectory; equal arguments share one plan.

    ``num_steps`` divides the whole schedule, whichever part of it is run:

    - base and refiner: the base down to ``boundary``, the refiner from there. With history
      ``restart`` the refiner is diffusers' image-to-image pipeline with ``denoising_start``: a
      fresh solver on the same grid. With ``carry`` one solver runs through.
    - base alone: everything, or down to ``boundary`` (``denoising_end``).
    - refiner alone: from latents at ``boundary``.
    - one expert with ``strength``: from a noised picture, over the last share of the steps.

    A boundary may leave an expert without a step, alone or beside the other, as in diffusers: a
    plan without evaluations leaves its first latents as they are.

    Raises:
        InvalidRequest: Settings that are out of range, contradict each other, or that this solver
            or schedule cannot honour; every one is named.
    """
    asked = Asked(
        schedule=schedule,
        solver=solver,
        num_steps=num_steps,
        experts=experts,
        boundary=boundary,
        strength=strength,
    )
    return _plan(asked)


@lru_cache(maxsize=1024)
def _plan(asked: Asked) -> Plan:
    refuse(violations_of(asked))
    lattice = build_lattice(asked.schedule, asked.solver, asked.num_steps)
    base, refiner = _spans(asked, lattice)
    refuse(_lattice_violations(asked, lattice, base, refiner))
    evaluations = _evaluations(asked, lattice, base, refiner)
    plan = _assemble(asked, lattice, [*base, *refiner], evaluations, num_base=len(base))
    if not (np.isfinite(plan.matrix).all() and np.isfinite(plan.denoised).all()):
        refuse([("solver", f"{asked.solver.name} has no finite step on this schedule")])
    return plan


def _spans(asked: Asked, lattice: Lattice) -> tuple[range, range]:
    """Return which evaluations of the lattice the base and the refiner make.

    Where the cut would split a second order step, the refiner begins with the evaluation that
    the base ended with, as diffusers' ``get_timesteps`` has it.
    """
    num, order = len(lattice.timesteps), traits_of(asked.solver.name).order
    begin = 0
    if asked.strength is not None:
        num_skipped = asked.num_steps - min(int(asked.num_steps * asked.strength), asked.num_steps)
        begin = num_skipped * order
    if asked.boundary is None:
        whole = range(begin, num)
        return (whole, range(0)) if asked.experts == ("base",) else (range(0), whole)
    cut = boundary_timestep(asked.schedule.num_train_timesteps, asked.boundary)
    num_base = int(np.count_nonzero(lattice.timesteps >= cut))
    num_refiner = num - num_base
    restarts = asked.solver.history == "restart"
    if order == 2 and restarts and num_refiner > 0 and num_refiner % 2 == 0:
        num_refiner += 1
    base = range(begin, num_base) if "base" in asked.experts else range(0)
    refiner = range(num - num_refiner, num) if "refiner" in asked.experts else range(0)
    return base, refiner


def _lattice_violations(
    asked: Asked, lattice: Lattice, base: range, refiner: range
) -> list[tuple[str, str]]:
    """Return what only shows once the timesteps are known."""
    schedule, solver = asked.schedule, asked.solver
    if len(base) + len(refiner) == 0:
        if asked.strength is None:
            return []
        problem = f"{asked.strength} leaves none of {asked.num_steps} steps to run"
        return [("image.strength", problem)]
    used = lattice.timesteps[[*base, *refiner]]
    by_table = len(lattice.sigmas) == 0
    if by_table and used.max() >= schedule.num_train_timesteps:
        return [("num_steps", f"{asked.num_steps} reach beyond the last training timestep")]
    needs_signal = schedule.prediction_type == "epsilon" and traits_of(solver.name).needs_signal
    table = schedule.alphas_cumprod
    if needs_signal and table[min(math.ceil(used.max()), len(table) - 1)] == 0.0:
        return [("solver", f"{solver.name} cannot start an epsilon model at zero signal")]
    return []


def _evaluations(asked: Asked, lattice: Lattice, base: range, refiner: range) -> list[Evaluation]:
    solve = traits_of(asked.solver.name).evaluations
    with np.errstate(all="ignore"):
        if asked.solver.history == "carry":
            return solve(lattice, range(base.start, refiner.stop))
        return [*solve(lattice, base), *solve(lattice, refiner)]


def _assemble(
    asked: Asked,
    lattice: Lattice,
    indices: list[int],
    evaluations: list[Evaluation],
    *,
    num_base: int,
) -> Plan:
    index = np.array(indices, np.int64)
    order, num_train = traits_of(asked.solver.name).order, asked.schedule.num_train_timesteps
    step = index // order - indices[0] // order + 1 if indices else index
    fraction = (num_train - lattice.timesteps[index]) / num_train
    if asked.schedule.edm is not None:
        fraction = (index + 1) / len(lattice.timesteps)
    signal, noise = _start(asked, lattice, indices[0] if indices else 0)
    return Plan(
        timestep=_frozen(np.array([e.timestep for e in evaluations])),
        c_in=_frozen(np.array([e.c_in for e in evaluations])),
        matrix=_frozen(
            np.array([e.matrix() for e in evaluations]).reshape(-1, NUM_STATES, NUM_INPUTS)
        ),
        denoised=_frozen(np.array([e.denoised for e in evaluations]).reshape(-1, NUM_INPUTS)),
        needs_noise=_frozen_flags(np.array([e.draws_noise for e in evaluations], np.bool_)),
        expert=_frozen_counts(np.where(np.arange(len(index)) < num_base, BASE, REFINER)),
        step=_frozen_counts(step),
        fraction=_frozen(np.clip(fraction, 0.0, 1.0)),
        num_steps=int(step.max(initial=0)),
        init_signal=signal,
        init_noise_sigma=noise,
    )


def _start(asked: Asked, lattice: Lattice, begin: int) -> tuple[float, float]:
    """Return the coefficients of latents and of noise in the first x."""
    schedule = asked.schedule
    if asked.strength is None:
        if asked.experts == ("refiner",):
            return 1.0, 0.0
        return 0.0, _init_noise_sigma(asked, lattice)
    if len(lattice.sigmas) == 0:
        signal = schedule.alphas_cumprod[int(lattice.timesteps[begin])]
        return float(np.sqrt(signal)), float(np.sqrt(1.0 - signal))
    sigma = lattice.sigmas[begin]
    alpha = 1.0 / np.sqrt(sigma**2 + 1.0) if lattice.scale == "preserving" else 1.0
    return float(alpha), float(sigma * alpha)


def _init_noise_sigma(asked: Asked, lattice: Lattice) -> float:
    """Return the scale of pure noise, or of signal plus noise where a grid starts late."""
    if lattice.scale == "preserving":
        return 1.0
    edm = asked.schedule.edm
    if edm is not None:
        return float(np.sqrt(edm.sigma_max**2 + 1.0))
    sigma = float(lattice.sigmas.max())
    spacing = asked.solver.spacing or asked.schedule.timestep_spacing
    return float(np.sqrt(sigma**2 + 1.0)) if spacing == "leading" else sigma


def _frozen(values: Array) -> Array:
    values.flags.writeable = False
    return values


def _frozen_flags(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    values.flags.writeable = False
    return values


def _frozen_counts(values: NDArray[np.int64]) -> NDArray[np.int64]:
    values.flags.writeable = False
    return values
