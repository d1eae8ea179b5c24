"""Every trajectory equals diffusers', row by row in one batch of rows that share nothing."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.diffusion import SOLVERS, NoiseSchedule, SolverConfig, make_plan
from diptych.diffusion.ragged import advance, estimate_denoised
from support.evaluations import stack_evaluations

TOLERANCE = 1e-4
SPACED = ("euler", "euler_ancestral", "heun", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
RESPACED = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
DISTILLED = ("lcm", "tcd")
EDM = ("edm_euler", "edm_dpmpp_2m")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")
BOUNDARIES = (None, 0.35, 0.65, 0.8)


def offered(solver: str, prediction: str, spacing: str, zero_snr: bool) -> bool:
    """Return whether diffusers has the combination, with finite numbers."""
    if solver == "euler_ancestral" and prediction == "sample":
        return False
    starts_at_zero_signal = zero_snr and (solver in DISTILLED or spacing != "leading")
    # There an epsilon model knows nothing of x0, and these are refused.
    is_blind = prediction == "epsilon" and starts_at_zero_signal
    return not (is_blind and solver in ("ddim", "heun", *DISTILLED))


def matrix() -> list[dict[str, Any]]:
    """Return solver x prediction x spacing x zero SNR x boundary."""
    spaced = product(SPACED, PREDICTIONS, SPACINGS, (False, True), BOUNDARIES)
    distilled = product(DISTILLED, PREDICTIONS, SPACINGS[:1], (False, True), BOUNDARIES)
    keys = ("solver", "prediction", "spacing", "zero_snr", "boundary")
    return [
        dict(zip(keys, values, strict=True))
        for values in (*spaced, *distilled)
        if offered(*values[:4])
    ]


def variations() -> list[dict[str, Any]]:
    """Return what else a checkpoint or a request may ask."""
    sigmas = product(RESPACED, ("karras", "exponential", "beta"), (False, True), (None, 0.65))
    respaced = [
        {
            "solver": s,
            "sigma_schedule": g,
            "zero_snr": z,
            "boundary": b,
            "prediction": "v_prediction",
        }
        for s, g, z, b in sigmas
    ]
    carried = [
        {"solver": s, "boundary": b, "history": "carry"}
        for s in SPACED + DISTILLED
        for b in (0.35, 0.8)
    ]
    noised = [{"solver": s, "strength": k} for s in SOLVERS for k in (0.3, 0.75, 1.0)]
    etas = [
        {"solver": s, "eta": e, "boundary": b}
        for s, e, b in product(("ddim", "tcd"), (0.0, 0.4, 1.0), (None, 0.65))
    ]
    edm = [
        {"solver": s, "prediction": p, "sigma_schedule": g}
        for s, p, g in product(EDM, PREDICTIONS[:2], (None, "karras", "exponential"))
    ]
    betas = [
        {"solver": s, "beta_schedule": b, "prediction": "v_prediction", "sigma_schedule": g}
        for s, b, g in product(RESPACED, ("linear", "squaredcos_cap_v2"), (None, "karras"))
    ]
    ends = [
        {"solver": s, "final_sigmas_type": "sigma_min", "lower_order_final": low, "num_steps": n}
        for s, low, n in product(("euler", "dpmpp_2m", "unipc", *EDM), (True, False), (9, 17))
    ]
    few = [{"solver": s, "num_steps": n} for s, n in product(SOLVERS, (1, 2, 3))]
    return [*respaced, *carried, *noised, *etas, *edm, *betas, *ends, *few]


@pytest.fixture(scope="module")
def rows(trajectories: SimpleNamespace) -> list[tuple[Any, list[torch.Tensor]]]:
    """Return every case with our latents after each evaluation: all of them in one batch."""
    settings = [*matrix(), *variations()]
    cases = [
        trajectories.Case(**{"num_steps": 8 + seed % 13, "seed": seed} | chosen)
        for seed, chosen in enumerate(settings)
    ]
    return list(zip(cases, trajectories.ragged_states(cases), strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_one_batch_equal_diffusers_alone(
    solver: str, rows: list[tuple[Any, list[torch.Tensor]]], trajectories: SimpleNamespace
) -> None:
    mine = [(case, ours) for case, ours in rows if case.solver == solver]
    gaps = [trajectories.difference(o, trajectories.diffusers_states(c)) for c, o in mine]
    assert [(g, c) for g, (c, _) in zip(gaps, mine, strict=True) if g > TOLERANCE] == []


SHARED = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
PLANS = [
    make_plan(SHARED, SolverConfig(name=name), 7, boundary=0.65)
    for name in SOLVERS
    if not name.startswith("edm")
]


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.lists(
        st.tuples(st.integers(0, len(PLANS) - 1), st.integers(0, 6)), min_size=2, max_size=9
    ),
    seed=st.integers(0, 2**32),
)
def test_a_row_is_the_same_to_the_bit_in_any_batch(
    chosen: list[tuple[int, int]], seed: int
) -> None:
    stacked = stack_evaluations([PLANS[p] for p, _ in chosen], [i for _, i in chosen])
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn((len(chosen), 4, 4, 5, 7), generator=generator)
    output, noise = torch.randn((2, len(chosen), 4, 5, 7), generator=generator)
    together = advance(state, output, noise, stacked.matrix)
    alone = [
        advance(state[b : b + 1], output[b : b + 1], noise[b : b + 1], stacked.matrix[b : b + 1])
        for b in range(len(chosen))
    ]
    assert torch.equal(together, torch.cat(alone))


def test_a_broken_row_leaves_its_neighbours_alone() -> None:
    stacked = stack_evaluations([PLANS[0], PLANS[0]], [2, 3])
    state, output = torch.ones((2, 4, 4, 2, 2)), torch.ones((2, 4, 2, 2))
    output[0] = float("nan")
    assert advance(state, output, None, stacked.matrix)[1].isfinite().all()


def test_no_noise_is_the_same_as_noise_that_no_row_uses() -> None:
    stacked = stack_evaluations([PLANS[0]], [1])
    state, output = torch.randn((1, 4, 4, 3, 3)), torch.randn((1, 4, 3, 3))
    unused = torch.randn((1, 4, 3, 3))
    without = advance(state, output, None, stacked.matrix)
    assert torch.equal(without, advance(state, output, unused, stacked.matrix))


def test_euler_ends_on_its_denoised_estimate_exactly() -> None:
    plan = make_plan(SHARED, SolverConfig(name="euler"), 5, boundary=0.5)
    stacked = stack_evaluations([plan], [plan.num_evaluations - 1])
    state, output = torch.randn((1, 4, 4, 3, 3)), torch.randn((1, 4, 3, 3))
    denoised = estimate_denoised(state, output, stacked.denoised)
    assert torch.equal(advance(state, output, None, stacked.matrix)[:, 0], denoised)


def test_estimate_undoes_the_noising_of_a_perfect_model() -> None:
    plan = make_plan(NoiseSchedule(), SolverConfig(name="unipc"), 10, experts=("base",))
    x0, eps = torch.randn((1, 4, 3, 3)), torch.randn((1, 4, 3, 3))
    signal = NoiseSchedule().alphas_cumprod[int(plan.timestep[4])]
    state = torch.zeros((1, 4, 4, 3, 3))
    state[:, 0] = float(signal**0.5) * x0 + float((1 - signal) ** 0.5) * eps
    stacked = stack_evaluations([plan], [4])
    assert torch.allclose(estimate_denoised(state, eps, stacked.denoised), x0, atol=1e-5)
