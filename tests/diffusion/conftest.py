"""Trajectories two ways: every diffusers scheduler alone, and all plans in one ragged batch.

The model is a stand-in that is exact for Gaussian data, bent by a small sine, so that latents stay
bounded for every solver; base and refiner believe in different data.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from diptych.diffusion import NoiseSchedule, Plan, SolverConfig, make_plan
from diptych.diffusion.noise import RowNoise
from diptych.diffusion.ragged import advance
from support.evaluations import stack_evaluations

SHAPE = (4, 3, 5)
DATA_STD = 0.6
EXPERT_MEANS = (0.4, -0.3)
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@cache
def _accepts(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a checkpoint, what is asked of it, and a seed."""

    solver: str
    prediction: str = "epsilon"
    spacing: str = "trailing"
    zero_snr: bool = False
    boundary: float | None = None
    sigma_schedule: str | None = None
    eta: float | None = None
    history: str = "restart"
    strength: float | None = None
    num_steps: int = 12
    seed: int = 0
    beta_schedule: str = "scaled_linear"
    final_sigmas_type: str = "zero"
    lower_order_final: bool = True
    steps_offset: int = 1

    @property
    def is_steep(self) -> bool:
        """Whether sigma falls so far that diffusers in float32 is itself off by 1e-4 and more."""
        return self.beta_schedule == "squaredcos_cap_v2" or (
            self.solver == "heun" and self.zero_snr
        )

    @property
    def config(self) -> dict[str, Any]:
        """A scheduler configuration that every diffusers scheduler can read."""
        name, extra = SCHEDULERS[self.solver]
        shared = {
            "prediction_type": self.prediction,
            "final_sigmas_type": self.final_sigmas_type,
            "lower_order_final": self.lower_order_final,
            "_class_name": name,
        }
        if name.startswith("EDM"):
            return {**shared, "sigma_schedule": self.sigma_schedule or "karras"}
        switches = {
            f"use_{s}_sigmas": s == self.sigma_schedule for s in ("karras", "exponential", "beta")
        }
        return {
            **shared,
            **switches,
            **extra,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": self.beta_schedule,
            "timestep_spacing": self.spacing,
            "steps_offset": self.steps_offset,
            "rescale_betas_zero_snr": self.zero_snr,
            "clip_sample": False,
            "set_alpha_to_one": False,
        }

    def plan(self) -> Plan:
        """What this package makes of the case."""
        config = SolverConfig(name=self.solver, eta=self.eta, history=self.history)
        experts = ("base", "refiner") if self.boundary is not None else ("base",)
        return make_plan(
            _schedule(self),
            config,
            self.num_steps,
            experts=experts,
            boundary=self.boundary,
            strength=self.strength,
        )

    def scheduler(self) -> Any:
        """Return a fresh diffusers scheduler, timesteps set."""
        cls = getattr(diffusers, SCHEDULERS[self.solver][0])
        with warnings.catch_warnings():
            # diffusers makes numpy arrays of tensors in a way that numpy 2 warns about.
            warnings.simplefilter("ignore", DeprecationWarning)
            scheduler = cls(**{k: v for k, v in self.config.items() if k in _accepts(cls)})
            if self.solver == "heun" and self.zero_snr:
                # Its Heun cannot rescale; the table that its Euler makes is put in its place.
                euler = diffusers.EulerDiscreteScheduler.from_config(self.config)
                scheduler.alphas_cumprod = euler.alphas_cumprod
            scheduler.set_timesteps(self.num_steps)
        if self.is_steep:
            scheduler.sigmas = scheduler.sigmas.double()
        return scheduler


@cache
def _schedule(case: Case) -> NoiseSchedule:
    return NoiseSchedule.from_config(case.config)


def _levels(case: Case, timestep: float) -> tuple[float, float]:
    """Return (alpha, sigma) of what the model sees, unit variance."""
    schedule = _schedule(case)
    if schedule.edm is not None:
        sigma, data = float(np.exp(4.0 * timestep)), schedule.edm.sigma_data
        scale = (sigma**2 + data**2) ** 0.5
        return data / scale, sigma / scale
    table = schedule.alphas_cumprod
    signal = float(np.interp(timestep, np.arange(len(table)), table))
    return signal**0.5, (1.0 - signal) ** 0.5


def denoise(z: Tensor, timestep: Tensor, means: Tensor, cases: Sequence[Case]) -> Tensor:
    """Return each row's prediction from unit-variance latents ``z`` [B, C, H, W].

    An EDM model predicts v of data scaled to unit variance, or its negative.
    """
    levels = [_levels(c, t) for c, t in zip(cases, timestep.tolist(), strict=True)]
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in torch.tensor(levels, dtype=z.dtype).unbind(1))
    variance = (alpha * DATA_STD) ** 2 + sigma**2
    mean = means.to(z.dtype).view(-1, 1, 1, 1)
    x0 = (mean * sigma**2 + alpha * DATA_STD**2 * z) / variance + 0.05 * torch.sin(3 * z)
    eps = (z - alpha * x0) / sigma
    v = alpha * eps - sigma * x0
    kinds = [f"edm_{c.prediction}" if c.solver.startswith("edm") else c.prediction for c in cases]
    outputs = {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": v,
        "edm_epsilon": -v,
        "edm_v_prediction": v,
    }
    return torch.stack([outputs[kind][b] for b, kind in enumerate(kinds)])


def _run_scheduler(
    case: Case, scheduler: Any, timesteps: Any, x: Tensor, generator: Any, expert: Any
) -> list[Tensor]:
    accepted = _accepts(type(scheduler).step)
    options: dict[str, Any] = {"generator": generator} if "generator" in accepted else {}
    if "eta" in accepted and case.eta is not None:
        options["eta"] = case.eta
    states = []
    for t in timesteps:
        z = scheduler.scale_model_input(x, t)
        mean = torch.tensor([EXPERT_MEANS[expert(float(t))]])
        output = denoise(z, t.reshape(1).float(), mean, [case])
        x = scheduler.step(output, t, x, return_dict=False, **options)[0]
        states.append(x)
    return states


def _img2img_timesteps(case: Case, scheduler: Any) -> Any:
    """Do what ``StableDiffusionXLImg2ImgPipeline.get_timesteps`` does."""
    if case.strength is not None:
        num_skipped = case.num_steps - int(case.num_steps * case.strength)
        begin = num_skipped * scheduler.order
    else:
        assert case.boundary is not None
        num_left = int((scheduler.timesteps < round(1000 - case.boundary * 1000)).sum())
        num_left += scheduler.order == 2 and num_left % 2 == 0
        begin = len(scheduler.timesteps) - num_left
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def diffusers_states(case: Case) -> list[Tensor]:
    """Return the latents after every model call of diffusers' pipelines, [1, C, H, W] each."""
    generator = torch.Generator().manual_seed(case.seed)
    first = torch.randn((1, *SHAPE), generator=generator)
    if case.is_steep:
        first = first.double()
    scheduler = case.scheduler()
    if case.strength is not None:
        timesteps = _img2img_timesteps(case, scheduler)
        x = scheduler.add_noise(torch.full_like(first, 0.5), first, timesteps[:1])
        return _run_scheduler(case, scheduler, timesteps, x, generator, lambda _: 0)
    if hasattr(scheduler, "set_begin_index"):
        # Or it would begin with the second step where the first two share a rounded timestep.
        scheduler.set_begin_index(0)
    x = first * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    if case.boundary is None:
        return _run_scheduler(case, scheduler, timesteps, x, generator, lambda _: 0)
    cut = round(1000 - case.boundary * 1000)
    if case.history == "carry":
        return _run_scheduler(case, scheduler, timesteps, x, generator, lambda t: int(t < cut))
    states = _run_scheduler(
        case, scheduler, [t for t in timesteps if t >= cut], x, generator, lambda _: 0
    )
    fresh = case.scheduler()
    rest = _img2img_timesteps(case, fresh)
    x = states[-1] if states else x
    return states + _run_scheduler(case, fresh, rest, x, generator, lambda _: 1)


def ragged_states(cases: Sequence[Case]) -> list[list[Tensor]]:
    """Return each case's latents after every evaluation, all run in one batch of unlike rows."""
    plans = [case.plan() for case in cases]
    noises = [RowNoise(case.seed) for case in cases]
    state = torch.zeros((len(cases), 4, *SHAPE))
    for b, (plan, noise) in enumerate(zip(plans, noises, strict=True)):
        state[b, 0] = plan.init_noise_sigma * noise.draw(SHAPE) + plan.init_signal * 0.5
    states: list[list[Tensor]] = [[] for _ in cases]
    for tick in range(max(plan.num_evaluations for plan in plans)):
        rows = [b for b, plan in enumerate(plans) if tick < plan.num_evaluations]
        stacked = stack_evaluations([plans[b] for b in rows], [tick] * len(rows))
        means = torch.tensor([EXPERT_MEANS[plans[b].expert[tick]] for b in rows])
        z = state[rows, 0] * stacked.c_in[:, None, None, None]
        output = denoise(z, stacked.timestep, means, [cases[b] for b in rows])
        drawn = torch.stack(
            [
                noises[b].draw(SHAPE) if plans[b].needs_noise[tick] else torch.zeros(SHAPE)
                for b in rows
            ]
        )
        state[rows] = advance(state[rows], output, drawn, stacked.matrix)
        for b in rows:
            states[b].append(state[b : b + 1, 0].clone())
    return states


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference after any evaluation, relative to latents above one."""
    assert len(ours) == len(theirs)
    gaps = [
        (a - b).abs().max() / b.abs().max().clamp(min=1.0)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return float(max(gaps))


def solve(plan: Plan, x: float, model: Callable[[float, float], float]) -> list[float]:
    """Return one number's path along a deterministic plan, in float64, its start included.

    ``model(z, t)`` is the raw output for ``z = c_in * x`` at timestep t.
    """
    state, path = np.array([x, 0.0, 0.0, 0.0]), [x]
    for c_in, t, matrix in zip(plan.c_in, plan.timestep, plan.matrix, strict=True):
        output = model(float(c_in * state[0]), float(t))
        state = matrix @ np.array([*state, output, 0.0])
        path.append(float(state[0]))
    return path


@pytest.fixture(scope="session")
def trajectories() -> SimpleNamespace:
    """Return what runs a trajectory: ``Case`` and the functions of this file."""
    return SimpleNamespace(
        Case=Case,
        difference=difference,
        diffusers_states=diffusers_states,
        ragged_states=ragged_states,
        solve=solve,
    )
