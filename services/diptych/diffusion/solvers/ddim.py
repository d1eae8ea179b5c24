"""DDIM, stepping in the table of alpha products."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.parameterization import denoised_row, eps_row
from diptych.diffusion.symbols import NOISE, Evaluation

__all__ = ["ddim"]


def ddim(lattice: Lattice, span: range) -> list[Evaluation]:
    """Song, Meng and Ermon 2021, equations 12 and 16; eta 0 is deterministic, 1 is DDPM.

    The previous timestep is a whole stride below, wherever the next evaluation is, as diffusers
    has it. With eta above 0 a noise is drawn at every evaluation.
    """
    schedule, eta = lattice.schedule, lattice.eta
    table = schedule.alphas_cumprod
    stride = schedule.num_train_timesteps // len(lattice.timesteps)
    final = 1.0 if schedule.set_alpha_to_one else table[0]
    evaluations = []
    for i in span:
        t = int(lattice.timesteps[i])
        a = table[t]
        a_prev = table[t - stride] if t >= stride else final
        std = eta * np.sqrt((1.0 - a_prev) / (1.0 - a) * (1.0 - a / a_prev))
        denoised = denoised_row(schedule.prediction_type, np.sqrt(a), np.sqrt(1.0 - a))
        eps = eps_row(denoised, np.sqrt(a), np.sqrt(1.0 - a))
        direction = np.sqrt(max(1.0 - a_prev - std**2, 0.0)) * eps
        evaluations.append(
            Evaluation(
                timestep=float(t),
                denoised=denoised,
                x=np.sqrt(a_prev) * denoised + direction + std * NOISE,
                draws_noise=eta > 0.0,
            )
        )
    return evaluations
