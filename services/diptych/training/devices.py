"""What a worker computes on: its device, the processes it trains with, and fixed arithmetic."""

from datetime import timedelta
from typing import Final

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn

from diptych.errors import FieldViolation, JobInvalid
from diptych.models.placement import choose_device
from diptych.training.spec import JobSpec
from diptych.training.task import WorkerTask

__all__ = ["compile_blocks", "joined", "make_accelerator"]

_SIDE_BY_SIDE: Final = 2
_BLOCKS: Final = ("BasicTransformerBlock", "ResnetBlock2D", "CLIPEncoderLayer")
"""Classes whose instances are gathered, and compiled, one at a time."""
_MAX_VARIANTS: Final = 64
"""Of one block's code: widths and sizes of pictures; after so many it runs as it is."""


def make_accelerator(task: WorkerTask, spec: JobSpec, *, timeout: timedelta) -> Accelerator:
    """Return what joins the processes of this worker; where it can, a CPU sums in a fixed order.

    Precision is the network's own matter, accumulation the loop's. Of two experts that are trained
    side by side each has a process, that joins no other, and a device of its own, or half of a
    CPU's threads.

    Args:
        task: Names the device, and of a mate its expert.
        spec: Says whether weights are spread over devices, and experts are trained side by side.
        timeout: How long a process waits for the others.

    Raises:
        SettingInvalid: This machine has no such device.
        JobInvalid: It has one device, or may use one only, and the job takes two.
    """
    device = choose_device(task.device, field="device")
    if spec.run.side_by_side:
        device = _own_device(device, is_mate=task.expert is not None)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        # Nothing here reads memory that was not written, so none of it need be filled first.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    elif device.index is not None:
        torch.cuda.set_device(device)
    is_sharded = spec.run.sharding == "fsdp2"
    trains_text = spec.text_encoders.method != "none"
    return Accelerator(
        cpu=device.type == "cpu",
        fsdp_plugin=_sharding() if is_sharded else None,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timeout),
            # A text encoder's last layer has no part in what a UNet is told.
            DistributedDataParallelKwargs(
                find_unused_parameters=trains_text, broadcast_buffers=False
            ),
        ],
    )


def compile_blocks(network: nn.Module) -> None:
    """Let the blocks of ``network`` be compiled at their first use (torch.compile).

    Blocks alike share what is compiled, so that little is compiled of a deep network. What lies
    between blocks runs as it is.
    """
    torch._dynamo.config.recompile_limit = _MAX_VARIANTS  # noqa: SLF001
    for module in network.modules():
        if type(module).__name__ in _BLOCKS:
            module.compile()


def joined(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """Return ``network`` as the accelerator's processes train it together.

    Where weights are spread, this replaces the network's parameters.
    """
    if not accelerator.is_fsdp2:
        whole: nn.Module = accelerator.prepare(network)
        return whole
    # accelerate insists on an optimizer beside the network; ours is made of the spread weights.
    trained = [one for one in network.parameters() if one.requires_grad]
    spread, _ = accelerator.prepare(network, torch.optim.SGD(trained, lr=1.0))
    assert isinstance(spread, nn.Module)
    return spread


def _own_device(device: torch.device, *, is_mate: bool) -> torch.device:
    """Return the device of one of two experts; of a CPU, take half of its threads."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        return device
    has = f"this machine has {torch.cuda.device_count()}"
    if str(device) != device.type:  # the server's settings name one by its number
        has = f"this server trains on {device} alone"
    elif torch.cuda.device_count() >= _SIDE_BY_SIDE:
        return torch.device(device.type, int(is_mate))
    problem = f"takes two devices, one for each expert, and {has}; false trains them in turn"
    raise JobInvalid([FieldViolation(field="run.side_by_side", description=problem)])


def _sharding() -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(_BLOCKS),
    )
