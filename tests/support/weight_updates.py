"""What an adapter does to weights, computed plainly: the reference that others are held to."""

from torch import Tensor

from diptych.adapters.adapter import LowRank

__all__ = ["delta"]


def delta(low_rank: LowRank) -> Tensor:
    """Return the update of the weight before any magnitude, in float64."""
    product = low_rank.up.double() @ low_rank.down.double().flatten(1)
    update: Tensor = low_rank.scale * product.reshape(low_rank.weight_shape)
    return update
