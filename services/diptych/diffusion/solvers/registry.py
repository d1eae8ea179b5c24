"""What each solver name stands for, and what can be asked of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from diptych.diffusion.lattice import (
    Lattice,
    distilled_lattice,
    edm_lattice,
    endpoint_lattice,
    interval_lattice,
    table_lattice,
)
from diptych.diffusion.schedule import SIGMA_SCHEDULES, NoiseSchedule
from diptych.diffusion.solvers.consistency import lcm, tcd
from diptych.diffusion.solvers.ddim import ddim
from diptych.diffusion.solvers.dpmpp import dpmpp_2m, dpmpp_2m_sde
from diptych.diffusion.solvers.euler import euler, euler_ancestral, heun
from diptych.diffusion.solvers.unipc import unipc
from diptych.diffusion.symbols import Evaluation

__all__ = ["SOLVERS", "SolverConfig", "SolverTraits", "build_lattice", "traits_of"]

Grid = Literal["endpoint", "interval", "table", "distilled", "edm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverConfig:
    """A solver and how it is set; None is the checkpoint's or the solver's own."""

    name: str = "euler"
    spacing: str | None = None
    """leading, linspace or trailing."""
    sigma_schedule: str | None = None
    """karras, exponential or beta."""
    eta: float | None = None
    """Stochasticity in [0, 1], of DDIM (0 by default) and TCD (0.3)."""
    history: str = "restart"
    """What a multistep solver remembers across the boundary: restart or carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverTraits:
    """What one solver is made of and what it accepts."""

    evaluations: Callable[[Lattice, range], list[Evaluation]]
    grid: Grid
    sigma_schedules: tuple[str, ...] = ()
    default_eta: float | None = None
    """None where the solver has no eta."""
    order: int = 1
    """Evaluations per step; the last step of a second order solver has one."""
    clips: bool = False
    """Whether diffusers' scheduler obeys ``clip_sample``, which is not linear."""
    thresholds: bool = False
    """Whether it obeys ``thresholding``, which is not linear either."""
    refused_predictions: tuple[str, ...] = ()
    needs_signal: bool = False
    """Whether an epsilon model cannot start where x holds no signal (zero terminal SNR).

    Its x0 there is 0 / 0, and Heun's, on diffusers' stand-in of sigma 4096, has lost its digits:
    1e-7 of prediction is 1e-3 of latents, twice.
    """

    @property
    def is_edm(self) -> bool:
        """Whether the solver needs an EDM schedule."""
        return self.grid == "edm"

    @property
    def is_spaced(self) -> bool:
        """Whether the spacing of timesteps is a choice."""
        return self.grid in ("endpoint", "interval", "table")


_EDM_SIGMAS: Final = ("karras", "exponential")

_TRAITS: Final[Mapping[str, SolverTraits]] = {
    "euler": SolverTraits(evaluations=euler, grid="endpoint", sigma_schedules=SIGMA_SCHEDULES),
    "euler_ancestral": SolverTraits(
        evaluations=euler_ancestral, grid="endpoint", refused_predictions=("sample",)
    ),
    "heun": SolverTraits(
        evaluations=heun,
        grid="endpoint",
        sigma_schedules=SIGMA_SCHEDULES,
        order=2,
        clips=True,
        needs_signal=True,
    ),
    "ddim": SolverTraits(
        evaluations=ddim,
        grid="table",
        default_eta=0.0,
        clips=True,
        thresholds=True,
        needs_signal=True,
    ),
    "dpmpp_2m": SolverTraits(
        evaluations=dpmpp_2m, grid="interval", sigma_schedules=SIGMA_SCHEDULES, thresholds=True
    ),
    "dpmpp_2m_sde": SolverTraits(
        evaluations=dpmpp_2m_sde, grid="interval", sigma_schedules=SIGMA_SCHEDULES, thresholds=True
    ),
    "unipc": SolverTraits(
        evaluations=unipc, grid="interval", sigma_schedules=SIGMA_SCHEDULES, thresholds=True
    ),
    "edm_euler": SolverTraits(
        evaluations=euler,
        grid="edm",
        sigma_schedules=_EDM_SIGMAS,
        refused_predictions=("sample",),
    ),
    "edm_dpmpp_2m": SolverTraits(
        evaluations=dpmpp_2m,
        grid="edm",
        sigma_schedules=_EDM_SIGMAS,
        refused_predictions=("sample",),
        thresholds=True,
    ),
    "lcm": SolverTraits(
        evaluations=lcm, grid="distilled", clips=True, thresholds=True, needs_signal=True
    ),
    "tcd": SolverTraits(evaluations=tcd, grid="distilled", default_eta=0.3, needs_signal=True),
}

SOLVERS: Final[tuple[str, ...]] = tuple(_TRAITS)
"""Every solver name."""


def traits_of(name: str) -> SolverTraits:
    """Return the traits of a solver in ``SOLVERS``."""
    return _TRAITS[name]


def build_lattice(schedule: NoiseSchedule, solver: SolverConfig, num_steps: int) -> Lattice:
    """Return where ``solver`` evaluates the model over the whole of ``schedule``.

    A sigma schedule that the checkpoint states is left out where the solver has none, as
    diffusers does when it converts a scheduler configuration; one the caller asks for must have
    been checked before.
    """
    traits = traits_of(solver.name)
    eta = solver.eta if solver.eta is not None else traits.default_eta or 0.0
    spacing = solver.spacing or schedule.timestep_spacing
    sigmas = solver.sigma_schedule or schedule.sigma_schedule
    if sigmas not in traits.sigma_schedules:
        sigmas = None
    if traits.grid == "edm":
        lattice = edm_lattice(schedule, sigma_schedule=sigmas, num_steps=num_steps)
    elif traits.grid == "distilled":
        lattice = distilled_lattice(schedule, num_steps=num_steps)
    elif traits.grid == "table":
        lattice = table_lattice(schedule, spacing=spacing, num_steps=num_steps)
    elif traits.grid == "interval":
        lattice = interval_lattice(
            schedule,
            spacing=spacing,
            sigma_schedule=sigmas,
            num_steps=num_steps,
            rounds_karras=solver.name == "unipc" or schedule.beta_schedule != "squaredcos_cap_v2",
        )
    else:
        lattice = endpoint_lattice(
            schedule,
            spacing=spacing,
            sigma_schedule=sigmas,
            num_steps=num_steps,
            ends_clean=solver.name != "euler",
        )
    return _with_order(lattice, traits.order, eta)


def _with_order(lattice: Lattice, order: int, eta: float) -> Lattice:
    """Return the lattice with every point but the first and the end repeated ``order`` times."""
    t, s = lattice.timesteps, lattice.sigmas
    if order > 1:
        t = np.concatenate([t[:1], np.repeat(t[1:], order)])
        s = np.concatenate([s[:1], np.repeat(s[1:-1], order), s[-1:]])
    return Lattice(schedule=lattice.schedule, timesteps=t, sigmas=s, scale=lattice.scale, eta=eta)
