"""One step of any solver over a batch in which every row is at its own point of its own plan."""

from torch import Tensor

__all__ = ["advance", "estimate_denoised"]


def advance(state: Tensor, model_output: Tensor, noise: Tensor | None, matrix: Tensor) -> Tensor:
    """Return every row's state after its own evaluation.

    Sums of elementwise products, not a matrix product: a row's result is the same to the bit in
    any batch, and no device setting can lower its precision.

    Args:
        state: (x, x_last, h1, h2), [B, 4, C, H, W], float32; unused memory is zero, never NaN.
        model_output: Guided prediction, [B, C, H, W], float32.
        noise: Fresh unit noise, [B, C, H, W], float32, anything finite in rows that draw none;
            None where no row draws.
        matrix: Coefficients of the inputs in the new state, [B, 4, 6], float32.

    Returns:
        A new state, [B, 4, C, H, W].
    """
    coefficients = matrix[:, :, :, None, None, None]
    result = coefficients[:, :, 0] * state[:, None, 0]
    for j in range(1, 4):
        result.addcmul_(coefficients[:, :, j], state[:, None, j])
    result.addcmul_(coefficients[:, :, 4], model_output[:, None])
    if noise is not None:
        result.addcmul_(coefficients[:, :, 5], noise[:, None])
    return result


def estimate_denoised(state: Tensor, model_output: Tensor, denoised: Tensor) -> Tensor:
    """Return every row's estimate of x0 from the state before its evaluation.

    Args:
        state: As for ``advance``.
        model_output: As for ``advance``.
        denoised: Coefficients, [B, 6], float32.

    Returns:
        Estimates, [B, C, H, W], float32.
    """
    return advance(state, model_output, None, denoised[:, None])[:, 0]
