"""Trained weights as plain tensors, however a device mesh spread them."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["fill", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """Return a float32 copy on the CPU; where ``tensor`` is spread, every process must ask."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", torch.float32, copy=True)


def fill(parameter: Tensor, value: Tensor) -> None:
    """Set ``parameter`` to a whole ``value``; each process keeps its own part of it."""
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            value = distribute_tensor(
                value.to(parameter.device), parameter.device_mesh, parameter.placements
            )
        parameter.copy_(value)
