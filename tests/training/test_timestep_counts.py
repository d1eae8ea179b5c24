"""The histogram of what an expert was trained on."""

import pytest
import torch

from diptych.errors import TimestepOutOfRange
from diptych.training.timestep_counts import TimestepCounts


def test_counts_are_exact() -> None:
    counts = TimestepCounts(range(350, 1000))
    counts.add(torch.tensor([350, 350, 999, 612]))
    counts.add(torch.tensor([351]))
    assert counts.counts[[0, 1, 262, 649]].tolist() == [2, 1, 1, 1]
    assert int(counts.counts.sum()) == 5


@pytest.mark.parametrize("outside", [349, 1000])
def test_a_timestep_outside_the_range_is_refused(outside: int) -> None:
    counts = TimestepCounts(range(350, 1000))
    with pytest.raises(TimestepOutOfRange) as caught:
        counts.add(torch.tensor([400, outside]))
    assert (caught.value.timestep, caught.value.first, caught.value.last) == (outside, 350, 999)
    assert int(counts.counts.sum()) == 0


def test_summary_says_first_last_and_bins() -> None:
    counts = TimestepCounts(range(350))
    counts.add(torch.tensor([3, 5, 340]))
    summary = counts.summary()
    assert (summary["first"], summary["last"], summary["begin"]) == (3, 340, 0)
    bins = summary["bins"]
    assert isinstance(bins, list)
    assert (summary["bin_width"], len(bins), bins[0], sum(bins)) == (7, 50, 2, 3)


def test_summary_of_nothing_has_no_first() -> None:
    assert TimestepCounts(range(350)).summary()["first"] is None


def test_counts_of_before_are_added() -> None:
    counts = TimestepCounts(range(4))
    counts.add(torch.tensor([1]))
    counts.add_counts(torch.tensor([0, 2, 0, 1]))
    assert counts.counts.tolist() == [0, 3, 0, 1]
