"""Workers as processes, started as their owner starts them, let be or signalled."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from support.jobs import an_attempt, events_of

__all__ = ["ended", "signalled", "started"]

Send = Callable[["subprocess.Popen[bytes]"], None]


def started(folder: AttemptFolder) -> "subprocess.Popen[bytes]":
    """Start a worker as its owner does: on a leash."""
    variables = os.environ  # noqa: TID251 - a worker sees its owner's
    return subprocess.Popen(
        [sys.executable, "-m", "diptych.training.worker", str(folder.path)],
        stdin=subprocess.PIPE,
        env={**variables, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def ended(task: WorkerTask, *, status: int = 0) -> Outcome:
    """Let a worker do all of a task, and return how it says that it ended."""
    folder = an_attempt(task)
    with started(folder) as process:
        assert process.wait(600) == status
    return Outcome.from_json(folder.outcome.read_text())


def signalled(task: WorkerTask, send: Send, *, expert: str) -> tuple[AttemptFolder, int]:
    """Start a worker, signal it once an expert has a checkpoint, and return its exit status."""
    folder = an_attempt(task)
    with started(folder) as process:
        while process.poll() is None:
            told = events_of(folder, "checkpoint") if folder.events.exists() else []
            if any(one["expert"] == expert for one in told):
                send(process)
                break
            signal.sigtimedwait([], 0.02)
        return folder, process.wait(600)
