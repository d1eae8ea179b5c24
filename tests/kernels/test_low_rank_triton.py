"""The kernel gives what the torch reference gives, through Triton's interpreter without a GPU."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diptych.kernels import low_rank
from diptych.kernels.low_rank import Factors, RowTensors, Window
from diptych.kernels.low_rank_triton import add_low_rank

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_LINES = 720


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer and one batch of four rows: a full rank, one in part this layer's, none, and
    one whose set leaves the layer alone."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    window: Window | None = None
    rank: int = 8
    gains: bool = False
    bias: bool = False
    dtype: torch.dtype = torch.float32


CASES = {
    "linear": Case(x=(4, 70, 40), y=(4, 70, 72)),
    "vectors": Case(x=(4, 40), y=(4, 72)),
    "rank 16": Case(x=(4, 20, 40), y=(4, 20, 72), rank=16),
    "rank 64": Case(x=(4, 20, 40), y=(4, 20, 24), rank=64),
    "rank of three tiles": Case(x=(4, 20, 40), y=(4, 20, 24), rank=150, gains=True),
    "rank beyond one launch": Case(x=(4, 5, 16), y=(4, 5, 16), rank=600, gains=True),
    "gains": Case(x=(4, 20, 40), y=(4, 20, 24), gains=True),
    "gains and bias": Case(x=(4, 20, 40), y=(4, 20, 24), gains=True, bias=True),
    "half precision": Case(x=(4, 20, 40), y=(4, 20, 24), gains=True, dtype=torch.float16),
    "convolution": Case(
        x=(4, 10, 9, 8), y=(4, 24, 9, 8), window=Window(kernel=(3, 3), padding=(1, 1))
    ),
    "strided convolution with gains": Case(
        x=(4, 10, 9, 8),
        y=(4, 24, 5, 4),
        window=Window(kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        gains=True,
        bias=True,
    ),
    "dilated convolution": Case(
        x=(4, 10, 9, 8),
        y=(4, 24, 9, 8),
        window=Window(kernel=(3, 1), padding=(2, 0), dilation=(2, 1)),
    ),
    "pointwise convolution": Case(x=(4, 10, 9, 8), y=(4, 24, 9, 8), window=Window(kernel=(1, 1))),
}


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def layer(case: Case) -> Factors:
    """Return a layer's lines, of which the last ten hold nothing of this layer."""
    num_taps = 1 if case.window is None else case.window.kernel[0] * case.window.kernel[1]
    num_inputs, num_outputs = case.x[1 if case.window else -1], case.y[1 if case.window else -1]
    table = 0.2 * drawn(NUM_LINES, num_inputs * num_taps + num_outputs, dtype=case.dtype)
    table[0] = 0.0
    used = torch.ones(NUM_LINES, dtype=torch.int32, device=DEVICE)
    used[0] = 0
    used[-10:] = 0
    table[-10:-1] = 0.0
    split = num_inputs * num_taps
    return Factors(down=table[:, :split], up=table[:, split:], used=used)


def rows(case: Case) -> RowTensors:
    lines = torch.zeros(4, case.rank, dtype=torch.int32)
    lines[0, : case.rank] = torch.arange(1, case.rank + 1).clamp(max=NUM_LINES - 11)
    lines[1, :5] = torch.tensor([NUM_LINES - 9, NUM_LINES - 8, 30, 11, 12])
    lines[3, :4] = torch.arange(NUM_LINES - 10, NUM_LINES - 6)
    gains = torch.tensor([0, NUM_LINES - 1, 0, 7], dtype=torch.int32)
    return RowTensors(
        lines=lines.to(DEVICE),
        scales=drawn(4, case.rank),
        out_gains=gains.to(DEVICE) if case.gains else None,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_reference(case: Case) -> None:
    x, y = drawn(*case.x, dtype=case.dtype), drawn(*case.y, dtype=case.dtype)
    bias = drawn(case.y[1 if case.window else -1], dtype=case.dtype) if case.bias else None
    factors, chosen = layer(case), rows(case)
    expected = low_rank.add_low_rank(
        y.clone(), x, factors=factors, rows=chosen, bias=bias, window=case.window
    )
    found = add_low_rank(y.clone(), x, factors=factors, rows=chosen, bias=bias, window=case.window)
    tolerance = 3e-5 if case.dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_rows_without_an_update_stay_as_they_are_to_the_bit() -> None:
    case = CASES["gains and bias"]
    x, y = drawn(*case.x), drawn(*case.y)
    found = add_low_rank(
        y.clone(), x, factors=layer(case), rows=rows(case), bias=drawn(24), window=None
    )
    assert torch.equal(found[2], y[2])


def test_any_memory_order_is_taken() -> None:
    case = CASES["convolution"]
    x = drawn(*case.x).to(memory_format=torch.channels_last)
    y = drawn(*case.y)
    options = {"factors": layer(case), "rows": rows(case), "bias": None, "window": case.window}
    found = add_low_rank(y.to(memory_format=torch.channels_last), x, **options)  # type: ignore[arg-type]
    expected = low_rank.add_low_rank(y.clone(), x, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_compiler_keeps_the_kernel_whole() -> None:
    case = CASES["gains and bias"]
    x, y, factors, chosen, bias = drawn(*case.x), drawn(*case.y), layer(case), rows(case), drawn(24)

    def call(y: Tensor, x: Tensor, rows: RowTensors) -> Tensor:
        return add_low_rank(1.0 * y, x, factors=factors, rows=rows, bias=bias, window=None)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(y, x, chosen), call(y, x, chosen))
