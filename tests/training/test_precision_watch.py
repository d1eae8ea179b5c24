"""Whether updates are lost in float32."""

import pytest
import torch

from diptych.training.precision_watch import PrecisionWatch


@pytest.mark.parametrize(("update", "share"), [(1e-12, 1.0), (1e-2, 0.0)])
def test_share_of_updates_that_change_nothing(update: float, share: float) -> None:
    weights = torch.full((8,), 1.0)
    weights.grad = torch.ones(8)
    watch = PrecisionWatch([weights], every_steps=1)
    watch.before(1)
    weights += update
    assert watch.lost_share() == share
    assert PrecisionWatch.is_too_many(share) == (share > 0)


def test_weights_without_a_gradient_do_not_count() -> None:
    weights = torch.ones(4)
    weights.grad = torch.tensor([0.0, 0.0, 1.0, 1.0])
    watch = PrecisionWatch([weights, torch.ones(4)], every_steps=1)
    watch.before(1)
    weights[2] += 1
    assert watch.lost_share() == 0.5


def test_looks_only_now_and_then() -> None:
    watch = PrecisionWatch([torch.ones(1)], every_steps=3)
    found = []
    for step in (1, 2, 3):
        watch.before(step)
        found.append(watch.lost_share())
    assert found == [None, None, 0.0]
