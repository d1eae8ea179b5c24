"""What one expert learns: which timesteps and noises, towards what, and how errors count."""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.diffusion.schedule import NoiseSchedule
from diptych.diffusion.timestep_draws import range_probabilities, stratified_timesteps
from diptych.diffusion.weighting import alphas_sigmas, huber_thresholds, min_snr_weights
from diptych.errors import InvalidRequest
from diptych.training.objective_rules import (
    biased_timesteps,
    objective_violations,
    trained_schedule,
)
from diptych.training.spec import ObjectiveSpec

__all__ = ["Objective"]


class Objective:
    """The task of one expert on its range of timesteps; immutable.

    Random numbers come from a generator on the CPU that the caller owns: draws are the same
    whatever device trains, and go on exactly from the generator's saved state. Timesteps are
    int64 throughout, latents, noise and losses float32.
    """

    schedule: Final[NoiseSchedule]
    """The checkpoint's with what the spec changes: sampling must use it, exports write it."""
    timesteps: Final[range]

    def __init__(self, schedule: NoiseSchedule, spec: ObjectiveSpec, timesteps: range) -> None:
        """Make the tables of a checkpoint's schedule.

        Raises:
            InvalidRequest: The spec cannot be trained on this schedule; every violation at once.
        """
        trained = range(schedule.num_train_timesteps)
        assert timesteps
        assert set(timesteps) <= set(trained)
        # A bias may be for the other expert's range alone, hence that of both.
        if violations := objective_violations(spec, (trained,), schedule):
            raise InvalidRequest(violations)
        self.schedule, self.timesteps = trained_schedule(schedule, spec), timesteps
        self._spec = spec
        bias = spec.timestep_bias
        self._probabilities = range_probabilities(
            timesteps, multiplier=bias.multiplier, biased=biased_timesteps(bias, timesteps)
        )
        self._alpha, self._sigma = map(_Table, alphas_sigmas(self.schedule))
        self._threshold = _Table(huber_thresholds(self.schedule, spec.huber_c, spec.huber_schedule))
        gamma = math.inf if spec.min_snr_gamma is None else spec.min_snr_gamma
        self._weight = None if math.isinf(gamma) else _Table(min_snr_weights(self.schedule, gamma))

    def draw_timesteps(self, num: int, generator: torch.Generator) -> Tensor:
        """Return the timesteps of a batch, [num], int64, on the CPU.

        Stratified within the batch at every size, one included, and never outside the range.
        """
        uniforms = torch.rand(num, generator=generator, dtype=torch.float64)
        order = torch.randperm(num, generator=generator)
        drawn = stratified_timesteps(
            self.timesteps, self._probabilities, uniforms=uniforms.numpy(), order=order.numpy()
        )
        return torch.from_numpy(drawn)

    def draw_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return noise for latents [B, C, h, w], float32, on their device.

        With a noise offset, that many times a further unit normal number of each sample and
        channel is added, to a share ``noise_offset_probability`` of the samples.
        """
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        if self._spec.noise_offset > 0.0:
            offset = torch.randn(*like.shape[:2], 1, 1, generator=generator)
            chance = torch.rand(like.shape[0], 1, 1, 1, generator=generator, dtype=torch.float64)
            takes = chance < self._spec.noise_offset_probability
            noise += self._spec.noise_offset * offset * takes
        return noise.to(like.device)

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``alpha(t) latents + sigma(t) noise``, [B, C, h, w], float32.

        Args:
            latents: Clean, on the scale the UNet sees, [B, C, h, w].
            noise: Of the same shape.
            t: Timesteps, [B], int64, on the latents' device.
        """
        return self._alpha.at(t) * latents.float() + self._sigma.at(t) * noise.float()

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should predict, [B, C, h, w], float32.

        The noise, the latents, or Salimans and Ho 2022's v = alpha noise - sigma latents.
        """
        if self.schedule.prediction_type == "epsilon":
            return noise.float()
        if self.schedule.prediction_type == "sample":
            return latents.float()
        return self._alpha.at(t) * noise.float() - self._sigma.at(t) * latents.float()

    def losses(
        self,
        prediction: Tensor,
        *,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return each sample's loss, weighed by its timestep, [B], float32.

        Args:
            prediction: The network's, [B, C, h, w], of any precision.
            latents: Clean, [B, C, h, w].
            noise: As given to ``noisy``.
            t: Timesteps, [B], int64.
            mask: How much each place counts, [B, 1, h, w], not negative; a sample's loss is the
                mean under it, and 0 where it is 0 everywhere. None counts all alike.
        """
        wanted = self.target(latents, noise, t)
        return self.losses_towards(prediction, wanted, t=t, mask=mask)

    def losses_towards(
        self, prediction: Tensor, target: Tensor, *, t: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return ``losses`` with respect to a target of the caller's, [B, C, h, w].

        For regularisation: the target is what the model predicted before training.
        """
        errors = self._errors(prediction.float() - target.float(), t)
        if mask is None:
            means = errors.mean(dim=(1, 2, 3))
        else:
            weights = mask.float().expand_as(errors)
            totals = weights.sum(dim=(1, 2, 3))
            weighed = (weights * errors).sum(dim=(1, 2, 3))
            means = weighed / torch.where(totals > 0, totals, 1.0)
        return means if self._weight is None else means * self._weight.at(t).flatten()

    def _errors(self, difference: Tensor, t: Tensor) -> Tensor:
        """Return the loss of every number: d^2, or pseudo-Huber with threshold c at t.

        Khrapov et al. 2024 has 2c (sqrt(d^2 + c^2) - c); smooth_l1 is that without the factor c.
        Written without the difference, which cancels in float32 where d is small.
        """
        squares = difference.square()
        if self._spec.loss == "l2":
            return squares
        c = self._threshold.at(t)
        straightened = 2.0 * squares / ((squares + c.square()).sqrt() + c)
        return c * straightened if self._spec.loss == "huber" else straightened


class _Table:
    """A number per timestep, copied once to every device that asks for it."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        values_float32 = torch.from_numpy(values.astype(np.float32))
        self._on = {values_float32.device: values_float32}

    def at(self, t: Tensor) -> Tensor:
        """Return the value at each timestep, [B, 1, 1, 1], float32, on the timesteps' device."""
        assert t.dtype == torch.int64
        if t.device not in self._on:
            self._on[t.device] = self._on[torch.device("cpu")].to(t.device)
        return self._on[t.device][t].view(-1, 1, 1, 1)
