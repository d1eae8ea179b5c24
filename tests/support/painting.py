"""An executor run by hand, without an engine."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.errors import DiptychError
from diptych.inference.executor import DeviceExecutor
from diptych.inference.ports import Placement, Row
from diptych.inference.trajectory import Expert, ImageRequest

__all__ = ["Latents", "largest_difference", "paint", "row"]

Latents = NDArray[np.float32]


def paint(executor: DeviceExecutor, requests: Sequence[ImageRequest]) -> list[Latents]:
    """Run requests together, each expert's rows in one batch, and return their latents."""
    routes = [executor.route(each) for each in requests]
    for slot, conditioning in enumerate(executor.encode(requests)):
        assert not isinstance(conditioning, DiptychError)
        executor.place(
            Placement(
                slot=slot,
                request=requests[slot],
                index=0,
                route=routes[slot],
                conditioning=conditioning,
            )
        )
    positions = dict.fromkeys(range(len(requests)), 0)
    finished: dict[int, Latents] = {}
    while positions:
        for expert in Expert:
            due = [slot for slot, at in positions.items() if routes[slot].experts[at] is expert]
            if due:
                executor.run(expert, [row(slot, positions[slot]) for slot in due])
            for slot in due:
                positions[slot] += 1
            for slot in [slot for slot in due if positions[slot] == len(routes[slot])]:
                latents = executor.take(slot).latents
                assert isinstance(latents, torch.Tensor)
                finished[slot] = latents.cpu().numpy()
                del positions[slot]
    return [finished[slot] for slot in range(len(requests))]


def row(slot: int, position: int, *, preview: bool = False) -> Row:
    return Row(slot=slot, position=position, preview=preview)


def largest_difference(a: Sequence[Latents], b: Sequence[Latents]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))
