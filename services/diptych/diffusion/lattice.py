"""The points in time at which a solver evaluates the model, each diffusers scheduler's own way."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.diffusion.respacing import respaced_sigmas, timesteps_of_sigmas
from diptych.diffusion.schedule import NoiseSchedule

__all__ = [
    "Lattice",
    "Scale",
    "distilled_lattice",
    "edm_lattice",
    "endpoint_lattice",
    "interval_lattice",
    "table_lattice",
]

Array = NDArray[np.float64]
Scale = Literal["exploding", "preserving", "edm"]

EDM_TIME_SCALE: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """A whole discretization, before any boundary cuts it."""

    schedule: NoiseSchedule
    timesteps: Array
    """What the model is told, [E], noise first."""
    sigmas: Array
    """Noise to signal ratio before each evaluation and after the last, [E + 1].

    Empty for solvers that step in ``alphas_cumprod``.
    """
    scale: Scale
    eta: float = 0.0


def _spaced(
    schedule: NoiseSchedule, spacing: str, num_steps: int, *, num_points: int, rounded: bool
) -> Array:
    """Return ``num_steps`` timesteps, descending: Lin et al. 2023, Table 2.

    ``num_points`` is ``num_steps``, or one more for solvers whose grid has the clean end on it.
    """
    num_train = schedule.num_train_timesteps
    if spacing == "linspace":
        points = np.linspace(0, num_train - 1, num_points)[::-1][:num_steps]
        return np.round(points) if rounded else points.astype(np.float32).astype(np.float64)
    if spacing == "leading":
        multiples = np.arange(num_points, dtype=np.float64) * (num_train // num_points)
        return multiples[::-1][:num_steps] + schedule.steps_offset
    # The slice drops the point at -1 that this expression makes where the ratio rounds down.
    return np.round(np.arange(num_train, 0, -num_train / num_steps))[:num_steps] - 1.0


def _last_sigma(schedule: NoiseSchedule) -> float:
    return float(schedule.sigmas[0]) if schedule.final_sigmas_type == "sigma_min" else 0.0


def _lattice(schedule: NoiseSchedule, timesteps: Array, sigmas: Array, scale: Scale) -> Lattice:
    """Round sigmas to float32, the precision in which diffusers keeps them."""
    single = sigmas.astype(np.float32).astype(np.float64)
    return Lattice(schedule=schedule, timesteps=timesteps, sigmas=single, scale=scale)


def endpoint_lattice(
    schedule: NoiseSchedule,
    *,
    spacing: str,
    sigma_schedule: str | None,
    num_steps: int,
    ends_clean: bool,
) -> Lattice:
    """Return the grid of the Euler family: from the last to the first training timestep.

    A sigma schedule is laid between the first and last sigma of the spaced timesteps. With
    ``ends_clean`` the schedule ends at sigma 0 whatever the checkpoint states.
    """
    table = schedule.sigmas
    timesteps = _spaced(schedule, spacing, num_steps, num_points=num_steps, rounded=False)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if sigma_schedule is not None:
        sigmas = respaced_sigmas(sigma_schedule, float(sigmas[-1]), float(sigmas[0]), num_steps)
        timesteps = timesteps_of_sigmas(sigmas, table).astype(np.float32).astype(np.float64)
    sigmas = np.append(sigmas, 0.0 if ends_clean else _last_sigma(schedule))
    return _lattice(schedule, timesteps, sigmas, "exploding")


def interval_lattice(
    schedule: NoiseSchedule,
    *,
    spacing: str,
    sigma_schedule: str | None,
    num_steps: int,
    rounds_karras: bool,
) -> Lattice:
    """Return the grid of DPM-Solver++ and UniPC: ``num_steps`` intervals, whole timesteps.

    A sigma schedule is laid over the whole training range; its timesteps are cut to integers
    (and, for Karras sigmas, rounded first where ``rounds_karras``).
    """
    table = schedule.sigmas
    if sigma_schedule is None:
        timesteps = _spaced(schedule, spacing, num_steps, num_points=num_steps + 1, rounded=True)
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
    else:
        sigmas = respaced_sigmas(sigma_schedule, float(table[0]), float(table[-1]), num_steps)
        timesteps = timesteps_of_sigmas(sigmas, table)
        rounds = rounds_karras and sigma_schedule == "karras"
        timesteps = np.round(timesteps) if rounds else np.trunc(timesteps)
    sigmas = np.append(sigmas, _last_sigma(schedule))
    return _lattice(schedule, timesteps, sigmas, "preserving")


def table_lattice(schedule: NoiseSchedule, *, spacing: str, num_steps: int) -> Lattice:
    """Return the grid of DDIM: whole timesteps that index ``alphas_cumprod``."""
    timesteps = _spaced(schedule, spacing, num_steps, num_points=num_steps, rounded=True)
    return _lattice(schedule, timesteps, np.empty(0), "preserving")


def distilled_lattice(schedule: NoiseSchedule, *, num_steps: int) -> Lattice:
    """Return the grid of LCM and TCD: a subset of the teacher's timesteps, noise first."""
    num_origin = schedule.original_inference_steps
    stride = schedule.num_train_timesteps // num_origin
    origin = np.arange(num_origin, 0, -1) * stride - 1
    index = np.floor(np.linspace(0, num_origin, num=num_steps, endpoint=False)).astype(np.int64)
    return _lattice(schedule, origin[index].astype(np.float64), np.empty(0), "preserving")


def edm_lattice(schedule: NoiseSchedule, *, sigma_schedule: str | None, num_steps: int) -> Lattice:
    """Return the grid of an EDM schedule: Karras et al. 2022, equation 5; time is ln(sigma)/4."""
    edm = schedule.edm
    assert edm is not None
    name = sigma_schedule or edm.sigma_schedule
    if name == "karras":
        ramp = np.linspace(0.0, 1.0, num_steps)
        low, high = edm.sigma_min ** (1 / edm.rho), edm.sigma_max ** (1 / edm.rho)
        sigmas = (high + ramp * (low - high)) ** edm.rho
    else:
        ends = math.log(edm.sigma_min), math.log(edm.sigma_max)
        sigmas = np.exp(np.linspace(*ends, num_steps))[::-1]
    last = edm.sigma_min if schedule.final_sigmas_type == "sigma_min" else 0.0
    return _lattice(schedule, EDM_TIME_SCALE * np.log(sigmas), np.append(sigmas, last), "edm")
