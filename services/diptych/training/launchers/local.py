"""Workers as processes of this machine, each in a session of its own and on a leash.

They are started as ``accelerate launch`` starts them, without it: for one device that would be a
second interpreter with torch in it; for several it is torchrun, after a look into a file of the
user's home that could change how a job trains.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from diptych.errors import FieldViolation, InvalidRequest
from diptych.training.task import AttemptFolder, WorkerTask

__all__ = ["LocalLauncher", "LocalProcess", "worker_command"]

WORKER: Final = ("-m", "diptych.training.worker")
TORCHRUN: Final = ("-m", "torch.distributed.run")
PROC: Final = Path("/proc")
DEVICES: Final = Path("/dev")
VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables that hide GPUs from a process."""
NO_COMPILER: Final = {"TORCHDYNAMO_DISABLE": "1"}
"""For jobs that compile nothing. bitsandbytes, which diffusers imports wherever it is installed,
decorates functions of its own with ``torch.compile``; that loads the compiler, a second of CPU."""
KILL_WAIT_S: Final = 10.0
"""A process that waits for a disk that is gone cannot be ended; its lock tells that it is there."""


class LocalLauncher:
    """Starts workers on this machine; holds nothing but what every worker is started with."""

    max_nodes = 1

    def __init__(self, *, environment: Mapping[str, str], worker: Sequence[str] = WORKER) -> None:
        """Prepare to start workers.

        Args:
            environment: All variables that a worker sees.
            worker: Arguments of the interpreter, before the attempt's folder.
        """
        self._environment = dict(environment)
        self._worker = tuple(worker)

    def num_devices(self, device: str) -> int | None:
        """Return how many processes may train on this machine: one a GPU, or one a core.

        What the driver lists is counted, less what the worker's variables hide.
        """
        if device.startswith("cuda:"):
            return 1
        num_gpus = 0 if device == "cpu" else _num_gpus(self._environment)
        if num_gpus or device == "cuda":
            return num_gpus or None
        return len(os.sched_getaffinity(0))

    def start(
        self, folder: AttemptFolder, task: WorkerTask, *, num_devices: int, num_nodes: int
    ) -> "LocalProcess":
        """Start the worker of ``folder``; its output goes to the attempt's log.

        Raises:
            InvalidRequest: It asks for more machines than this one.
            OSError: The log cannot be written, or there is no process to be had.
        """
        if num_nodes > self.max_nodes:
            problem = f"{num_nodes} nodes, and the local launcher has this machine alone"
            raise InvalidRequest([FieldViolation(field="run.num_nodes", description=problem)])
        command = worker_command(self._worker, folder, task, num_devices=num_devices)
        environment = self._environment | ({} if task.is_compiled else NO_COMPILER)
        with folder.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return LocalProcess(process)


class LocalProcess:
    """A worker and what it started: one session, or with several devices one for each.

    Owns the leash, the write end of the worker's standard input; may be used from several threads.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Take over ``process``, the leader of its session."""
        self._process = process

    @property
    def pid(self) -> int:
        """Number of the process, and of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit status, negative of a signal's number; None while it runs."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Return whether it runs; once it does not, it is reaped."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """Ask for a checkpoint and an end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, and return when it is reaped, or cannot be.

        The leash is let go too, which ends what is out of a signal's reach.
        """
        descendants = tuple(_descendants(self.pid))
        self._signal(signal.SIGKILL)
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_WAIT_S)

    def close(self) -> None:
        """Let the leash go; what still runs ends by itself."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group, which outlives its leader while any of it runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def worker_command(
    worker: Sequence[str], folder: AttemptFolder, task: WorkerTask, *, num_devices: int
) -> list[str]:
    """Return the command that starts a worker on ``num_devices`` devices of this machine."""
    last = [*worker, str(folder.path)]
    if num_devices == 1:
        return [sys.executable, *last]
    processes = ["--standalone", "--nproc-per-node", str(num_devices)]
    patience = ["--shutdown-timeout", str(math.ceil(task.grace_s))]
    return [sys.executable, *TORCHRUN, *processes, *patience, *last]


def _num_gpus(environment: Mapping[str, str]) -> int:
    """Return how many GPUs torch would find here; 0 where none are seen without it."""
    found = [one for one in DEVICES.glob("nvidia*") if one.name.removeprefix("nvidia").isdigit()]
    if not found and (DEVICES / "kfd").exists():
        found = list(DEVICES.glob("dri/renderD*"))
    shown = [environment[name].split(",") for name in VISIBLE if name in environment]
    return min([len(found), *(sum(bool(one.strip()) for one in own) for own in shown)])


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes below ``pid``, where the system tells them."""
    for listed in PROC.glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, listed.read_text().split()):
                yield child
                yield from _descendants(child)
