"""Weights that a mesh spread come back whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from diptych.training.trainables.whole_tensors import fill, whole


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """Yield a mesh of this process alone."""
    store = FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_a_copy_is_of_float32_on_the_cpu_and_its_own() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    copy = whole(weight)
    fill(weight, torch.zeros(3))
    assert copy.dtype is torch.float32
    assert torch.equal(copy, torch.ones(3))


def test_sharded_weights_are_read_and_set_whole(mesh: DeviceMesh) -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    fully_shard(layer, mesh=mesh)
    assert isinstance(layer.weight, DTensor)
    assert torch.equal(whole(layer.weight), before)
    fill(layer.weight, 2 * before)
    assert torch.equal(whole(layer.weight), 2 * before)
