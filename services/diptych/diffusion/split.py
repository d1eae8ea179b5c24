"""Where the base expert ends and the refiner begins: one function for training and inference."""

import math

from diptych.errors import FieldViolation, InvalidRequest

__all__ = [
    "base_timesteps",
    "boundary_from_refiner_strength",
    "boundary_timestep",
    "refiner_strength_from_boundary",
    "refiner_timesteps",
]


def boundary_timestep(num_train_timesteps: int, boundary: float) -> int:
    """Return the lowest timestep that belongs to the base expert.

    The base owns ``t >= cut``, the refiner ``t < cut``; the two never overlap and leave no gap.
    It is the cut that diffusers makes for ``denoising_end`` and ``denoising_start``, rounding
    included (half to even).

    Args:
        num_train_timesteps: Length of the training schedule, T.
        boundary: Fraction of the schedule, noise first, that the base does; in (0, 1).

    Raises:
        InvalidRequest: ``boundary`` is not strictly between 0 and 1.
    """
    if not (math.isfinite(boundary) and 0.0 < boundary < 1.0):
        raise InvalidRequest(
            [FieldViolation(field="boundary", description=f"{boundary} is not between 0 and 1")]
        )
    return round(num_train_timesteps - boundary * num_train_timesteps)


def boundary_from_refiner_strength(strength: float) -> float:
    """Return the boundary at which a refiner trained on the last ``strength`` takes over."""
    return 1.0 - strength


def refiner_strength_from_boundary(boundary: float) -> float:
    """Return the fraction of the schedule that is the refiner's, in (0, 1)."""
    return 1.0 - boundary


def base_timesteps(num_train_timesteps: int, boundary: float) -> range:
    """Return the training timesteps of the base expert, ascending."""
    return range(boundary_timestep(num_train_timesteps, boundary), num_train_timesteps)


def refiner_timesteps(num_train_timesteps: int, boundary: float) -> range:
    """Return the training timesteps of the refiner, ascending."""
    return range(boundary_timestep(num_train_timesteps, boundary))
