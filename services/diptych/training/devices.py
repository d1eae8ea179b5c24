"""What a worker computes on: its device, the processes it trains with, and fixed arithmetic."""

from datetime import timedelta
from typing import Final

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn

from diptych.models.placement import choose_device
from diptych.training.spec import JobSpec
from diptych.training.task import WorkerTask

__all__ = ["compile_blocks", "joined", "make_accelerator"]

_BLOCKS: Final = ("BasicTransformerBlock", "ResnetBlock2D", "CLIPEncoderLayer")
"""Classes whose instances are gathered, and compiled, one at a time."""
_MAX_VARIANTS: Final = 64
"""Of one block's code: widths and sizes of pictures; after so many it runs as it is."""


def make_accelerator(task: WorkerTask, spec: JobSpec, *, timeout: timedelta) -> Accelerator:
    """Return what joins the processes of this worker; where it can, a CPU sums in a fixed order.

    Precision is the network's own matter, accumulation the loop's.

    Args:
        task: Names the device.
        spec: Says whether weights are spread over devices.
        timeout: How long a process waits for the others.

    Raises:
        SettingInvalid: This machine has no such device.
    """
    device = choose_device(task.device, field="device")
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

    Blocks alike share what is compiled, so that this takes seconds where a whole UNet takes
    minutes, and leaves out little: what lies between blocks are additions.
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


def _sharding() -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(_BLOCKS),
    )
