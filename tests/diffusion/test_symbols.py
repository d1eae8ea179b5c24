"""Rows are coefficients over six inputs and cannot be changed by accident."""

import numpy as np
import pytest

from diptych.diffusion.symbols import H1, H2, MODEL, NOISE, X_LAST, ZERO, Evaluation, X


def test_the_basis_is_in_the_order_that_a_matrix_is_applied() -> None:
    assert np.array_equal(np.stack([X, X_LAST, H1, H2, MODEL, NOISE]), np.eye(6))


def test_a_basis_row_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        X[0] = 2.0


def test_memory_that_a_solver_does_not_use_is_zero() -> None:
    evaluation = Evaluation(timestep=1.0, denoised=MODEL, x=X + 2.0 * NOISE)
    assert np.array_equal(evaluation.matrix(), [X + 2.0 * NOISE, ZERO, ZERO, ZERO])


def test_the_matrix_has_the_state_in_order() -> None:
    evaluation = Evaluation(timestep=1.0, denoised=MODEL, x=X, x_last=X_LAST, h1=H1, h2=H2)
    assert np.array_equal(evaluation.matrix(), np.eye(6)[:4])
