"""The noise schedule a checkpoint was trained with, read from its scheduler configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.diffusion.scheduler_config import ConfigReader

__all__ = [
    "PREDICTION_TYPES",
    "SIGMA_SCHEDULES",
    "SPACINGS",
    "EdmSchedule",
    "NoiseSchedule",
]

PREDICTION_TYPES: Final = ("epsilon", "v_prediction", "sample")
SPACINGS: Final = ("leading", "linspace", "trailing")
SIGMA_SCHEDULES: Final = ("karras", "exponential", "beta")

BETA_SCHEDULES: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
TERMINAL_ALPHA_CUMPROD: Final = 2.0**-24
"""Stands for zero at the last timestep where a finite sigma is needed (diffusers' convention)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdmSchedule:
    """A continuous schedule over sigma, Karras et al. 2022, Table 1, last column."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    sigma_schedule: str = "karras"
    """karras or exponential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """Training noise levels, and the sampling conventions that a checkpoint states.

    Hashable: plans are memoized by it.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    sigma_schedule: str | None = None
    """karras, exponential or beta; None takes the sigmas at the spaced timesteps."""
    final_sigmas_type: str = "zero"
    set_alpha_to_one: bool = True
    lower_order_final: bool = True
    euler_at_final: bool = False
    original_inference_steps: int = 50
    """Steps of the teacher's schedule that LCM and TCD students were distilled on."""
    timestep_scaling: float = 10.0
    clip_sample: bool = False
    thresholding: bool = False
    edm: EdmSchedule | None = None
    """Set for an EDM model; the beta schedule is then meaningless."""

    @classmethod
    def from_config(
        cls, config: Mapping[str, object], *, source: str = "scheduler_config.json"
    ) -> "NoiseSchedule":
        """Read a diffusers ``scheduler_config.json``; absent keys take its class's defaults.

        Args:
            config: The parsed JSON object.
            source: Named in errors.

        Raises:
            CheckpointInvalid: A schedule of an unknown kind, or a value out of range.
        """
        reader = ConfigReader(config, source)
        if reader.is_edm:
            return _read_edm(cls, reader)
        reader.refuse_unsupported()
        return cls(
            num_train_timesteps=reader.integer("num_train_timesteps", 1000, low=2),
            beta_start=reader.number("beta_start", 0.0001),
            beta_end=reader.number("beta_end", 0.02),
            beta_schedule=reader.choice("beta_schedule", BETA_SCHEDULES, "linear"),
            prediction_type=reader.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
            rescale_betas_zero_snr=reader.flag("rescale_betas_zero_snr", default=False),
            timestep_spacing=reader.choice("timestep_spacing", SPACINGS, "linspace"),
            steps_offset=reader.integer("steps_offset", 0, low=0),
            sigma_schedule=reader.sigma_schedule(),
            final_sigmas_type=reader.choice("final_sigmas_type", ("zero", "sigma_min"), "zero"),
            set_alpha_to_one=reader.flag("set_alpha_to_one", default=True),
            lower_order_final=reader.flag("lower_order_final", default=True),
            euler_at_final=reader.flag("euler_at_final", default=False),
            original_inference_steps=reader.integer("original_inference_steps", 50, low=1),
            timestep_scaling=reader.number("timestep_scaling", 10.0),
            clip_sample=reader.flag("clip_sample", default=False),
            thresholding=reader.flag("thresholding", default=False),
        )

    @property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """Products of ``1 - beta``, [T], descending; exactly 0 at the end with zero SNR.

        The values are those of float32 arithmetic: checkpoints were trained with them, and near
        zero SNR a more exact table is another schedule.
        """
        return _alphas_cumprod(self)

    @property
    def sigmas(self) -> NDArray[np.float32]:
        """Noise to signal ratio at every training timestep, [T], ascending and finite."""
        return _sigmas(self)


def _read_edm(cls: type[NoiseSchedule], reader: ConfigReader) -> NoiseSchedule:
    edm = EdmSchedule(
        sigma_min=reader.number("sigma_min", 0.002),
        sigma_max=reader.number("sigma_max", 80.0),
        sigma_data=reader.number("sigma_data", 0.5),
        rho=reader.number("rho", 7.0),
        sigma_schedule=reader.choice("sigma_schedule", ("karras", "exponential"), "karras"),
    )
    return cls(
        num_train_timesteps=reader.integer("num_train_timesteps", 1000, low=2),
        prediction_type=reader.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
        final_sigmas_type=reader.choice("final_sigmas_type", ("zero", "sigma_min"), "zero"),
        lower_order_final=reader.flag("lower_order_final", default=True),
        euler_at_final=reader.flag("euler_at_final", default=False),
        thresholding=reader.flag("thresholding", default=False),
        edm=edm,
    )


def _linspace(start: float, end: float, num: int) -> NDArray[np.float32]:
    """Return float32 steps counted from the nearer end, each rounded once, as torch does."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64(np.float32((last - first) / np.float32(num - 1)))
    index = np.arange(num, dtype=np.float64)
    up, down = np.float64(first) + step * index, np.float64(last) - step * (num - 1 - index)
    return np.where(index < num // 2, up, down).astype(np.float32)


def _cosine_betas(num: int, max_beta: float = 0.999) -> NDArray[np.float32]:
    """Nichol and Dhariwal 2021, equation 17."""
    alpha_bar = [math.cos((t / num + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(num + 1)]
    betas = [min(1 - after / before, max_beta) for before, after in pairwise(alpha_bar)]
    return np.array(betas, dtype=np.float32)


def _betas(schedule: NoiseSchedule) -> NDArray[np.float32]:
    start, end, num = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        return _linspace(start, end, num)
    if schedule.beta_schedule == "scaled_linear":
        return _linspace(start**0.5, end**0.5, num) ** 2
    return _cosine_betas(num)


def _cumprod(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.cumprod(values.astype(np.float64)).astype(np.float32)


def _rescale_zero_terminal_snr(betas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale so that no signal is left at the end: Lin et al. 2023, Algorithm 1."""
    root = np.sqrt(_cumprod(np.float32(1) - betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = root**2
    alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return np.float32(1) - alphas


@lru_cache(maxsize=64)
def _alphas_cumprod(schedule: NoiseSchedule) -> NDArray[np.float64]:
    betas = _betas(schedule)
    if schedule.rescale_betas_zero_snr:
        betas = _rescale_zero_terminal_snr(betas)
    table = _cumprod(np.float32(1) - betas).astype(np.float64)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=64)
def _sigmas(schedule: NoiseSchedule) -> NDArray[np.float32]:
    alphas = schedule.alphas_cumprod.astype(np.float32)
    if schedule.rescale_betas_zero_snr:
        alphas[-1] = np.float32(TERMINAL_ALPHA_CUMPROD)
    table: NDArray[np.float32] = np.sqrt((np.float32(1) - alphas) / alphas)
    table.flags.writeable = False
    return table
