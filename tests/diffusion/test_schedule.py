"""Noise tables are diffusers' own, and a configuration means what it means there."""

import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion import EdmSchedule, NoiseSchedule
from diptych.diffusion.scheduler_config import DISCRETE_SCHEDULERS
from diptych.errors import CheckpointInvalid

LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
KINDS = ("linear", "scaled_linear", "squaredcos_cap_v2")


def schedule(**config: Any) -> NoiseSchedule:
    return NoiseSchedule.from_config({"_class_name": "EulerDiscreteScheduler", **LATENT, **config})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_alpha_products_are_diffusers(kind: str, zero_snr: bool) -> None:
    theirs = diffusers.DDIMScheduler(beta_schedule=kind, rescale_betas_zero_snr=zero_snr, **LATENT)
    ours = schedule(beta_schedule=kind, rescale_betas_zero_snr=zero_snr)
    assert np.allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_sigmas_are_diffusers(kind: str, zero_snr: bool) -> None:
    theirs = diffusers.EulerDiscreteScheduler(
        beta_schedule=kind, rescale_betas_zero_snr=zero_snr, **LATENT
    )
    ours = schedule(beta_schedule=kind, rescale_betas_zero_snr=zero_snr)
    assert np.allclose(ours.sigmas[::-1], theirs.sigmas.numpy()[:-1], rtol=1e-4, atol=1e-5)


def test_zero_snr_is_exactly_zero_in_the_table_and_finite_in_sigma() -> None:
    ours = schedule(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    assert ours.alphas_cumprod[-1] == 0.0
    assert np.isclose(ours.sigmas[-1], 4096.0)


@given(start=st.floats(1e-4, 2e-3), end=st.floats(5e-3, 5e-2), kind=st.sampled_from(KINDS))
def test_noise_only_grows(start: float, end: float, kind: str) -> None:
    ours = schedule(beta_start=start, beta_end=end, beta_schedule=kind)
    assert (np.diff(ours.sigmas) > 0).all()


def test_tables_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        schedule().alphas_cumprod[0] = 1.0


@pytest.mark.parametrize("name", DISCRETE_SCHEDULERS)
def test_absent_keys_take_the_defaults_of_the_class(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        config = dict(getattr(diffusers, name)().config)
    config["clip_sample"] = False
    full = NoiseSchedule.from_config({"_class_name": name, **config})
    assert NoiseSchedule.from_config({"_class_name": name}) == full


def test_reads_an_edm_configuration() -> None:
    config = dict(diffusers.EDMDPMSolverMultistepScheduler(sigma_max=120.0).config)
    ours = NoiseSchedule.from_config({"_class_name": "EDMDPMSolverMultistepScheduler", **config})
    assert ours.edm == EdmSchedule(sigma_max=120.0)


def test_reads_the_sigma_schedule_that_is_switched_on() -> None:
    assert schedule(use_karras_sigmas=True).sigma_schedule == "karras"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("_class_name", None),
        ("prediction_type", "flow_prediction"),
        ("beta_schedule", "sigmoid"),
        ("timestep_spacing", "sideways"),
        ("trained_betas", [0.1, 0.2]),
        ("use_flow_sigmas", True),
        ("interpolation_type", "log_linear"),
        ("timestep_type", "continuous"),
    ],
)
def test_refuses_what_it_would_otherwise_get_wrong(key: str, value: object) -> None:
    with pytest.raises(CheckpointInvalid, match=r"scheduler_config\.json"):
        schedule(**{key: value})
