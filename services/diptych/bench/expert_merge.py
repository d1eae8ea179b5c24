"""What merging full-size experts takes: seconds, and the most memory that it ever held.

Weights are random, of a real network's shapes. The merge runs as the command that users run, in
a process of its own, whose peak the system counts.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diptych.bench.random_weights import UNET_CONFIGS
from diptych.errors import FieldViolation, InvalidRequest
from diptych.models.derived_folder import copy_other_parts, write_part
from diptych.models.parts import Part, StoredTensor
from diptych.nano.pair import expert_path
from diptych.storage.tensor_header import TensorSpan

__all__ = [
    "MAX_PEAK_BYTES",
    "ExpertMergeReport",
    "Spent",
    "measure_expert_merge",
    "spend",
    "write_experts",
]

MAX_PEAK_BYTES: Final = 4 * 2**30
ARCHITECTURES: Final = {"sdxl": "base", "sdxl-refiner": "refiner"}
_BLOCK: Final = 1 << 22
_NOISE: Final = 0.02
_CHANGE: Final = 0.002
_LOOK_S: Final = 0.05
"""Between looks at the highest mark, which only rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one process needed."""

    seconds: float
    peak_bytes: int
    """Most resident memory, mapped files included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMergeReport:
    """One merge."""

    architecture: str
    method: str
    num_experts: int
    unet_bytes: int
    """Of one UNet on disk, in half precision."""
    spent: Spent

    @property
    def holds(self) -> bool:
        """Return whether the merge got by with the memory it may take."""
        return self.spent.peak_bytes <= MAX_PEAK_BYTES


def measure_expert_merge(
    folder: Path, *, architecture: str, method: str, num_experts: int
) -> ExpertMergeReport:
    """Merge random experts and return what that took.

    Args:
        folder: Empty; the experts and the result stay there, together ``num_experts + 2`` UNets.
        architecture: sdxl or sdxl-refiner.
        method: As ``diptych models merge`` takes it.
        num_experts: Besides the base.

    Raises:
        InvalidRequest: There is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        problem = f"{architecture!r:.40} is not one of {', '.join(ARCHITECTURES)}"
        raise InvalidRequest([FieldViolation(field="architecture", description=problem)])
    config = UNET_CONFIGS[ARCHITECTURES[architecture]]
    base, *experts = write_experts(folder, config, num_experts=num_experts)
    density = [] if method in {"linear", "slerp"} else ["--density", "0.5"]
    command = [
        *(sys.executable, "-m", "diptych.cli", "models", "merge", "--json"),
        *("--base", str(base), "--method", method, *density, "-o", str(folder / "merged")),
        *(f"{path}@{1 / num_experts}" for path in experts),
    ]
    spent = spend(command)
    weights = folder / "merged" / "unet" / "diffusion_pytorch_model.safetensors"
    return ExpertMergeReport(
        architecture=architecture,
        method=method,
        num_experts=num_experts,
        unet_bytes=weights.stat().st_size,
        spent=spent,
    )


def write_experts(folder: Path, config: Mapping[str, Any], *, num_experts: int) -> list[Path]:
    """Write a base and experts near it, in half precision; their other parts are the nano pair's.

    Args:
        folder: Where.
        config: Of the UNet.
        num_experts: Besides the base.
    """
    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config))
    part, noise = _part(unet), _blocks()
    found = [folder / name for name in ("base", *(f"expert-{k}" for k in range(num_experts)))]
    for index, path in enumerate(found):

        def tensor_of(name: str, index: int = index) -> Tensor:
            shape = torch.Size(part.tensors[name].span.shape)
            tensor = _NOISE * noise(0, shape)
            return (tensor + _CHANGE * noise(index, shape) if index else tensor).half()

        path.mkdir(parents=True)
        copy_other_parts(expert_path("base"), path)
        unet.save_config(path / "unet")
        write_part(part, path, tensor_of, {})
    return found


def spend(command: Sequence[str]) -> Spent:
    """Run ``command`` to its end and return what it needed.

    Raises:
        CalledProcessError: It failed.
    """
    began, peak_bytes = time.monotonic(), 0
    # The commands are this module's own.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    while process.returncode is None:
        peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Spent(seconds=time.monotonic() - began, peak_bytes=peak_bytes)


def _peak_bytes(pid: int) -> int:
    """Return the most memory that a process held so far; not what its parent held, as wait4."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _part(unet: UNet2DConditionModel) -> Part:
    """Return the layout of a UNet in half precision."""

    def placed() -> Iterator[tuple[str, StoredTensor]]:
        begin = 0
        for name, tensor in unet.state_dict().items():
            end = begin + 2 * tensor.numel()
            span = TensorSpan(dtype="F16", shape=tuple(tensor.shape), begin=begin, end=end)
            yield name, StoredTensor(path=Path(), key=name, span=span)
            begin = end

    return Part(source="random", name="unet", config={}, tensors=dict(placed()))


def _blocks() -> Callable[[int, torch.Size], Tensor]:
    """Return what gives numbers of a shape: one block of noise per expert, again and again."""
    made: dict[int, Tensor] = {}

    def noise(index: int, shape: torch.Size) -> Tensor:
        if index not in made:
            made[index] = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(index))
        repeats = -(-shape.numel() // _BLOCK)
        return made[index].repeat(repeats)[: shape.numel()].view(shape)

    return noise
