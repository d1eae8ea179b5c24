"""Reading of a diffusers ``scheduler_config.json``: class defaults, types, refusals."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from diptych.errors import CheckpointInvalid

__all__ = ["DISCRETE_SCHEDULERS", "EDM_SCHEDULERS", "ConfigReader"]

_SPACED_LEADING: Final = {"timestep_spacing": "leading"}
_LATENT_BETAS: Final = {"beta_start": 0.00085, "beta_end": 0.012}

DISCRETE_SCHEDULERS: Final[Mapping[str, Mapping[str, object]]] = {
    "DDIMScheduler": _SPACED_LEADING,
    "DDPMScheduler": _SPACED_LEADING,
    "DEISMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {"lower_order_final": False},
    "EulerAncestralDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "HeunDiscreteScheduler": _LATENT_BETAS,
    "KDPM2AncestralDiscreteScheduler": _LATENT_BETAS,
    "KDPM2DiscreteScheduler": _LATENT_BETAS,
    "LCMScheduler": _LATENT_BETAS | _SPACED_LEADING | {"beta_schedule": "scaled_linear"},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": _SPACED_LEADING | {"set_alpha_to_one": False},
    "TCDScheduler": _LATENT_BETAS | _SPACED_LEADING | {"beta_schedule": "scaled_linear"},
    "UniPCMultistepScheduler": {},
}
"""Schedulers whose noise schedule is a beta table, with the defaults that differ from Euler's."""

EDM_SCHEDULERS: Final = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")

_ONLY: Final[Mapping[str, tuple[object, ...]]] = {
    "trained_betas": (None,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "use_flow_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_dynamic_shifting": (False, None),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "predict_x0": (True,),
}
"""Settings that change the schedule or the prediction in ways this package does not do."""


class ConfigReader:
    """Typed access to one configuration; every error names the file and the key."""

    def __init__(self, config: Mapping[str, object], source: str) -> None:
        self._config, self._source = config, source
        self._class_name = config.get("_class_name")
        if self._class_name not in DISCRETE_SCHEDULERS and not self.is_edm:
            raise CheckpointInvalid(source, f"scheduler {self._class_name!r} is of no known kind")
        self._defaults = {} if self.is_edm else DISCRETE_SCHEDULERS[str(self._class_name)]

    @property
    def is_edm(self) -> bool:
        """Whether the schedule is continuous in sigma."""
        return self._class_name in EDM_SCHEDULERS

    def refuse_unsupported(self) -> None:
        """Raise ``CheckpointInvalid`` on a setting that would be ignored."""
        for key, allowed in _ONLY.items():
            if key in self._config and self._config[key] not in allowed:
                self._fail(key, f"{self._config[key]!r} is not supported")

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """Return one of ``allowed``."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in allowed:
            self._fail(key, f"{value!r} is none of {', '.join(allowed)}")
        return str(value)

    def number(self, key: str, default: float) -> float:
        """Return a finite positive number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(key, f"{value!r} is not a number")
        number = float(str(value))
        if not (math.isfinite(number) and number > 0.0):
            self._fail(key, f"{value!r} is not a finite positive number")
        return number

    def integer(self, key: str, default: int, *, low: int) -> int:
        """Return an integer, at least ``low`` and at most 100,000."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 100_000:
            self._fail(key, f"{value!r} is not an integer in {low}..100000")
        return int(str(value))

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean; null counts as False."""
        value = self._value(key, default)
        if value is not None and not isinstance(value, bool):
            self._fail(key, f"{value!r} is not a boolean")
        return bool(value)

    def sigma_schedule(self) -> str | None:
        """Return the one sigma schedule that is switched on, if any."""
        names = ("karras", "exponential", "beta")
        on = [name for name in names if self.flag(f"use_{name}_sigmas", default=False)]
        if len(on) > 1:
            self._fail(f"use_{on[1]}_sigmas", f"contradicts use_{on[0]}_sigmas")
        return on[0] if on else None

    def _value(self, key: str, default: object) -> object:
        return self._config.get(key, self._defaults.get(key, default))

    def _fail(self, key: str, problem: str) -> None:
        raise CheckpointInvalid(self._source, f"{key}: {problem}")
