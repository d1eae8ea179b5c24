"""Draws, targets and losses of an expert against closed forms, and others' defects."""

from dataclasses import replace
from itertools import product
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diptych.diffusion.schedule import NoiseSchedule
from diptych.diffusion.split import base_timesteps
from diptych.errors import InvalidRequest
from diptych.training.objective import Objective
from diptych.training.spec import ObjectiveSpec, PredictionType, TimestepBiasSpec

SDXL = NoiseSchedule()
BASE = base_timesteps(1000, 0.65)
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")
LOSSES = ("l2", "huber", "smooth_l1")
T = torch.tensor([350, 500, 750, 999])

Array = NDArray[np.float64]


def make(spec: ObjectiveSpec | None = None, timesteps: range = BASE) -> Objective:
    return Objective(SDXL, ObjectiveSpec() if spec is None else spec, timesteps)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch() -> dict[str, Tensor]:
    """Return a prediction, latents and noise, [4, 4, 6, 5], and their timesteps."""
    generator = seeded()
    prediction, latents, noise = (torch.randn(4, 4, 6, 5, generator=generator) for _ in range(3))
    return {"prediction": prediction, "latents": latents, "noise": noise, "t": T}


def float64_schedule(*, zero_snr: bool) -> tuple[Array, Array]:
    """Return alpha and sigma of diffusers' scheduler at T, [4, 1, 1, 1], float64."""
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=zero_snr,
    )
    cumprod = scheduler.alphas_cumprod.double().numpy()[T.numpy()].reshape(-1, 1, 1, 1)
    return cumprod**0.5, (1 - cumprod) ** 0.5


def float64_losses(spec: ObjectiveSpec, data: dict[str, Tensor], weights: Array) -> Array:
    """Return the losses of a batch, [4], from the papers' formulas."""
    alpha, sigma = float64_schedule(zero_snr=bool(spec.zero_snr))
    prediction, x0, eps = (data[k].double().numpy() for k in ("prediction", "latents", "noise"))
    target = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}
    d = prediction - target[spec.prediction_type or "epsilon"]
    with np.errstate(divide="ignore"):
        snr, ratio = alpha**2 / sigma**2, sigma / alpha
    t = T.numpy().reshape(-1, 1, 1, 1)
    c = {
        "constant": np.full(t.shape, spec.huber_c),
        "exponential": np.exp(np.log(spec.huber_c) * t / 1000),
        "snr": (1 - spec.huber_c) / (1 + ratio) ** 2 + spec.huber_c,
    }[spec.huber_schedule]
    root = np.sqrt(d**2 + c**2) - c
    elements = {"l2": d**2, "huber": 2 * c * root, "smooth_l1": 2 * root}[spec.loss]
    means = (weights * elements).sum((1, 2, 3)) / (weights * np.ones_like(d)).sum((1, 2, 3))
    if spec.min_snr_gamma is None:
        return np.asarray(means)
    clamped = np.minimum(snr, spec.min_snr_gamma)
    with np.errstate(invalid="ignore"):
        scale = {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}
    return np.asarray(means * scale[spec.prediction_type or "epsilon"].ravel())


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("sample", False),
        ("v_prediction", True),
        ("sample", True),
    ],
)
@pytest.mark.parametrize(
    ("loss", "huber_schedule"),
    [
        ("l2", "snr"),
        *product(("huber", "smooth_l1"), ("constant", "exponential", "snr")),
    ],
)
@pytest.mark.parametrize("gamma", [None, 0.5, 5.0])
@pytest.mark.parametrize("mask", [None, torch.rand(4, 1, 6, 5, generator=seeded(1))])
def test_losses_are_the_closed_form(
    prediction_type: PredictionType,
    zero_snr: bool,
    loss: Any,
    huber_schedule: Any,
    gamma: float | None,
    mask: Tensor | None,
) -> None:
    spec = ObjectiveSpec(
        prediction_type=prediction_type,
        zero_snr=zero_snr,
        loss=loss,
        huber_schedule=huber_schedule,
        min_snr_gamma=gamma,
    )
    weights = np.ones((4, 1, 6, 5)) if mask is None else mask.double().numpy()
    losses = make(spec).losses(**batch(), mask=mask)
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses, float64_losses(spec, batch(), weights), rtol=2e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_noisy_latents_and_velocity_are_those_of_diffusers(zero_snr: bool) -> None:
    objective = make(ObjectiveSpec(prediction_type="v_prediction", zero_snr=zero_snr))
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=zero_snr,
    )
    data = batch()
    latents, noise = data["latents"], data["noise"]
    noisy = scheduler.add_noise(latents, noise, T)
    torch.testing.assert_close(objective.noisy(latents, noise, T), noisy, rtol=0, atol=1e-6)
    velocity = scheduler.get_velocity(latents, noise, T)
    torch.testing.assert_close(objective.target(latents, noise, T), velocity, rtol=0, atol=1e-6)


def test_no_signal_is_left_at_the_last_timestep_with_zero_snr() -> None:
    objective = make(ObjectiveSpec(prediction_type="v_prediction", zero_snr=True))
    data = batch()
    noisy = objective.noisy(data["latents"], data["noise"], T)
    assert torch.equal(noisy[3], data["noise"][3])
    assert objective.schedule.timestep_spacing == "trailing"


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_finite_without_signal(
    prediction_type: PredictionType, loss: Any
) -> None:
    spec = ObjectiveSpec(
        prediction_type=prediction_type,
        zero_snr=True,
        min_snr_gamma=5.0,
        loss=loss,
    )
    data = batch() | {"t": torch.tensor([999] * 4)}
    data["prediction"].requires_grad_()
    losses = make(spec).losses(**data)
    (gradient,) = torch.autograd.grad(losses.sum(), data["prediction"])
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()


def test_min_snr_follows_the_trained_prediction_not_the_checkpoints() -> None:
    spec = ObjectiveSpec(prediction_type="v_prediction", min_snr_gamma=5.0)
    plain = make(replace(spec, min_snr_gamma=None)).losses(**batch())
    alpha, sigma = float64_schedule(zero_snr=False)
    snr = (alpha**2 / sigma**2).ravel()
    expected = np.minimum(snr, 5.0) / (snr + 1)
    np.testing.assert_allclose(make(spec).losses(**batch()) / plain, expected, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_prediction_type_trains(prediction_type: PredictionType) -> None:
    """A linear network with the timestep's alpha and sigma as inputs learns a constant picture."""
    objective = make(ObjectiveSpec(prediction_type=prediction_type, min_snr_gamma=5.0), range(1000))
    picture = torch.randn(1, 4, 2, 2, generator=seeded(5))
    network = nn.Sequential(nn.Linear(17, 64), nn.SiLU(), nn.Linear(64, 16))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=seeded(3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator, told = seeded(), []
    for _ in range(60):
        latents = picture.expand(32, -1, -1, -1)
        t = objective.draw_timesteps(32, generator)
        noise = objective.draw_noise(latents, generator)
        seen = torch.cat([objective.noisy(latents, noise, t).flatten(1), t[:, None] / 1000], dim=1)
        prediction = network(seen).view_as(latents)
        loss = objective.losses(prediction, latents=latents, noise=noise, t=t).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        told.append(loss.item())
    assert np.mean(told[-10:]) < 0.6 * np.mean(told[:5])


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_timesteps_stay_in_the_experts_range_at_every_batch_size(num: int) -> None:
    generator = seeded()
    drawn = torch.cat([make().draw_timesteps(num, generator) for _ in range(400)])
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 350
    assert drawn.max() <= 999
    assert len(set(drawn.tolist())) > 250


def test_a_batch_covers_the_range_evenly_in_no_fixed_order() -> None:
    generator = seeded()
    batches = [make().draw_timesteps(5, generator) for _ in range(40)]
    parts = torch.stack([(one - 350) // 130 for one in batches])
    assert torch.equal(parts.sort(dim=1).values, torch.arange(5).expand(40, 5))
    assert len({tuple(one) for one in parts.tolist()}) > 20


def test_biased_timesteps_come_more_often() -> None:
    bias = TimestepBiasSpec(kind="later", multiplier=9.0, portion=0.1)
    objective, generator = make(ObjectiveSpec(timestep_bias=bias)), seeded()
    drawn = torch.cat([objective.draw_timesteps(4, generator) for _ in range(500)])
    assert abs((drawn >= 935).double().mean().item() - 0.5) < 0.02


def test_draws_go_on_exactly_from_the_generators_state() -> None:
    objective = make(ObjectiveSpec(noise_offset=0.1, noise_offset_probability=0.5))
    generator, like = seeded(), torch.zeros(3, 4, 2, 2)
    objective.draw_timesteps(3, generator)
    objective.draw_noise(like, generator)
    state = generator.get_state()
    expected = objective.draw_timesteps(3, generator), objective.draw_noise(like, generator)
    again = torch.Generator()
    again.set_state(state)
    assert torch.equal(objective.draw_timesteps(3, again), expected[0])
    assert torch.equal(objective.draw_noise(like, again), expected[1])


def test_noise_is_unit_normal_and_float32_whatever_the_latents() -> None:
    noise = make().draw_noise(torch.zeros(8, 4, 32, 32, dtype=torch.bfloat16), seeded())
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1.0) < 0.02


def test_noise_offset_shifts_samples_and_channels_by_numbers_of_their_own() -> None:
    spec = ObjectiveSpec(noise_offset=0.5)
    noise = make(spec).draw_noise(torch.zeros(64, 4, 48, 48), seeded())
    shifts = noise.mean(dim=(2, 3))
    assert abs(shifts.std().item() - 0.5) < 0.06
    assert abs(np.corrcoef(shifts.T.numpy())[0, 1]) < 0.4


def test_noise_offset_is_given_to_its_share_of_the_samples() -> None:
    spec = ObjectiveSpec(noise_offset=5.0, noise_offset_probability=0.25)
    noise = make(spec).draw_noise(torch.zeros(400, 4, 8, 8), seeded())
    shifted = noise.mean(dim=(2, 3)).abs().amax(dim=1) > 1.0
    assert abs(shifted.double().mean().item() - 0.25) < 0.06


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_whatever_the_prediction(dtype: torch.dtype) -> None:
    data = batch()
    low = data["prediction"].to(dtype)
    losses = make().losses(**data | {"prediction": low})
    expected = make().losses(**data | {"prediction": low.float()})
    assert torch.equal(losses, expected)


def test_huber_keeps_small_errors_that_float32_would_cancel() -> None:
    data = batch()
    spec = ObjectiveSpec(loss="smooth_l1", huber_schedule="constant", huber_c=1.0)
    near = data["noise"] + 1e-4
    losses = make(spec).losses(**data | {"prediction": near})
    torch.testing.assert_close(losses, torch.full((4,), 1e-8), rtol=2e-2, atol=0)


def test_places_masked_out_do_not_count() -> None:
    data = batch()
    mask = torch.ones(4, 1, 6, 5)
    mask[:, :, :3] = 0.0
    wrong = data["prediction"].clone()
    wrong[:, :, :3] = 1e6
    losses = make().losses(**data, mask=mask)
    assert torch.equal(make().losses(**data | {"prediction": wrong}, mask=mask), losses)


def test_a_sample_masked_out_whole_has_no_loss() -> None:
    mask = torch.ones(4, 1, 6, 5)
    mask[2] = 0.0
    losses = make().losses(**batch(), mask=mask)
    assert losses[2] == 0.0
    assert torch.equal(losses[[0, 1, 3]], make().losses(**batch(), mask=None)[[0, 1, 3]])


def test_losses_towards_a_frozen_models_prediction_are_zero_when_equal() -> None:
    prediction = batch()["prediction"]
    assert make().losses_towards(prediction, prediction.clone(), t=T).tolist() == [0.0] * 4


def test_a_samples_loss_does_not_depend_on_its_batch() -> None:
    spec = ObjectiveSpec(prediction_type="v_prediction", loss="huber", min_snr_gamma=5.0)
    whole = make(spec).losses(**batch())
    alone = make(spec).losses(**{name: value[1:2] for name, value in batch().items()})
    assert torch.equal(whole[1:2], alone)


def test_refuses_what_cannot_be_trained() -> None:
    with pytest.raises(InvalidRequest, match=r"objective\.zero_snr"):
        make(ObjectiveSpec(zero_snr=True))
