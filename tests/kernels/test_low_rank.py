"""Each row gets its own update, as a weight that holds it would give, and no other row's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.low_rank import Factors, RowTensors, Window, add_low_rank

NUM_LINES = 40
WINDOWS = [
    Window(kernel=(3, 3), padding=(1, 1)),
    Window(kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    Window(kernel=(1, 1)),
    Window(kernel=(3, 1), padding=(2, 0), dilation=(2, 1)),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def factors(num_inputs: int, num_outputs: int) -> Factors:
    table = 0.3 * drawn(NUM_LINES, num_inputs + num_outputs)
    table[0] = 0.0
    used = torch.ones(NUM_LINES, dtype=torch.int32)
    used[0] = 0
    return Factors(down=table[:, :num_inputs], up=table[:, num_inputs:], used=used)


def four_rows() -> RowTensors:
    """Return lines of ranks 8, 3, none and 5."""
    lines = torch.zeros(4, 8, dtype=torch.int32)
    lines[0] = torch.arange(1, 9)
    lines[1, :3] = torch.tensor([30, 11, 12])
    lines[3, :5] = torch.arange(20, 25)
    return RowTensors(lines=lines, scales=torch.linspace(-1.0, 1.0, 32).view(4, 8))


def update(found: Factors, rows: RowTensors, row: int) -> Tensor:
    """Return the weight [out, in * kh * kw] that one row's lines add, in float64."""
    lines, scales = rows.lines[row], rows.scales[row].double()
    return found.up[lines].double().mT * scales @ found.down[lines].double()


def test_a_linear_map_adds_every_rows_own_product() -> None:
    found, rows, x, y = factors(12, 7), four_rows(), drawn(4, 5, 12), drawn(4, 5, 7)
    expected = torch.stack(
        [y[row].double() + x[row].double() @ update(found, rows, row).mT for row in range(4)]
    )
    made = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=None, window=None)
    torch.testing.assert_close(made.double(), expected, atol=1e-5, rtol=0)


def test_rows_of_one_vector_are_rows_too() -> None:
    found, rows, x, y = factors(12, 7), four_rows(), drawn(4, 12), drawn(4, 7)
    made = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=None, window=None)
    longer = add_low_rank(
        y[:, None].clone(), x[:, None], factors=found, rows=rows, bias=None, window=None
    )
    assert torch.equal(made, longer[:, 0])


@pytest.mark.parametrize("window", WINDOWS)
def test_a_convolution_adds_every_rows_own_product(window: Window) -> None:
    taps = window.kernel[0] * window.kernel[1]
    found, rows, x = factors(6 * taps, 7), four_rows(), drawn(4, 6, 9, 8)
    weights = [update(found, rows, row).view(7, 6, *window.kernel) for row in range(4)]
    added = torch.stack(
        [
            functional.conv2d(
                picture[None],
                weight,
                stride=window.stride,
                padding=window.padding,
                dilation=window.dilation,
            )[0]
            for picture, weight in zip(x.double(), weights, strict=True)
        ]
    )
    y = drawn(*added.shape)
    made = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=None, window=window)
    torch.testing.assert_close(made.double(), y.double() + added, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[2]])
def test_a_pictures_order_in_memory_stays(window: Window) -> None:
    taps = window.kernel[0] * window.kernel[1]
    last = torch.channels_last
    x, y = (drawn(4, 6, 9, 8).to(memory_format=last), drawn(4, 7, 9, 8).to(memory_format=last))
    made = add_low_rank(
        y, x, factors=factors(6 * taps, 7), rows=four_rows(), bias=None, window=window
    )
    assert made.is_contiguous(memory_format=last)


@pytest.mark.parametrize("window", [None, WINDOWS[0]])
def test_gains_multiply_the_output_without_its_bias(window: Window | None) -> None:
    found = factors(9 * 6 if window else 6, 7)
    gains = torch.tensor([0, 33, 0, 0], dtype=torch.int32)
    rows = RowTensors(
        lines=torch.zeros(4, 8, dtype=torch.int32), scales=torch.ones(4, 8), out_gains=gains
    )
    bias = drawn(7)
    x, y = (drawn(4, 6, 5, 5), drawn(4, 7, 5, 5)) if window else (drawn(4, 5, 6), drawn(4, 5, 7))
    across = (-1, 1, 1) if window else (-1,)
    expected = y.clone()
    expected[1] = (y[1] - bias.view(across)) * (1 + found.up[33].view(across)) + bias.view(across)
    made = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=bias, window=window)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, WINDOWS[0]])
def test_rows_without_an_update_stay_as_they_are_to_the_bit(window: Window | None) -> None:
    found = factors(9 * 6 if window else 6, 7)
    gains = torch.tensor([0, 33, 0, 0], dtype=torch.int32)
    rows = four_rows()._replace(out_gains=gains)
    x, y = (drawn(4, 6, 5, 5), drawn(4, 7, 5, 5)) if window else (drawn(4, 5, 6), drawn(4, 5, 7))
    made = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=drawn(7), window=window)
    assert torch.equal(made[2], y[2])


@pytest.mark.parametrize("window", [None, WINDOWS[0], WINDOWS[1]])
def test_what_a_row_gets_does_not_depend_on_the_others(window: Window | None) -> None:
    found, rows = factors(9 * 48 if window else 48, 40), four_rows()
    x = drawn(4, 48, 16, 16) if window else drawn(4, 64, 48)
    size = 16 // window.stride[0] if window else 0
    y = drawn(4, 40, size, size) if window else drawn(4, 64, 40)
    together = add_low_rank(y.clone(), x, factors=found, rows=rows, bias=None, window=window)
    alone = [
        add_low_rank(
            y[row : row + 1].clone(),
            x[row : row + 1],
            factors=found,
            rows=RowTensors(lines=rows.lines[row : row + 1], scales=rows.scales[row : row + 1]),
            bias=None,
            window=window,
        )
        for row in range(4)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_an_output_in_another_memory_order_is_taken() -> None:
    found, rows, x = factors(9 * 6, 7), four_rows(), drawn(4, 6, 5, 5)
    y = drawn(4, 7, 5, 5)
    options = {"factors": found, "rows": rows, "bias": None, "window": WINDOWS[0]}
    made = add_low_rank(y.to(memory_format=torch.channels_last), x, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(made, add_low_rank(y.clone(), x, **options))  # type: ignore[arg-type]
