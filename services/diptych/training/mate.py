"""A worker's mate: the process that trains the second expert while the worker trains the first.

It is to the worker what the worker is to the job's owner: a process on a leash, with a task and an
outcome that are files. It stands in the worker's process group, so that what ends the one ends the
other, and holds the worker's lock too, so that no other worker begins while it lives.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from diptych.training.attempt_files import read_outcome, write_task
from diptych.training.tailing import log_tail
from diptych.training.task import AttemptFolder, Outcome, WorkerTask

__all__ = ["Mate"]

WORKER: Final = ("-m", "diptych.training.worker")
_LOOK_S: Final = 0.2


class Mate:
    """Starts and watches one mate, and does not outlive it; owned by one thread.

    Leaving its block while the mate runs asks it for a checkpoint, and waits.
    """

    def __init__(
        self,
        folder: AttemptFolder,
        *,
        lock: int,
        beat: Callable[[], None],
        is_preempted: Callable[[], bool] = lambda: False,
        worker: Sequence[str] = WORKER,
    ) -> None:
        """Prepare to start one.

        Args:
            folder: Of the worker's attempt.
            lock: Descriptor of the worker's lock.
            beat: Shows that the worker lives; called while the mate is waited for.
            is_preempted: Whether SIGTERM came to the worker, which may have come to it alone.
            worker: Arguments of the interpreter, before the attempt's folder and the expert.
        """
        self._folder, self._lock, self._worker = folder, lock, tuple(worker)
        self._beat, self._is_preempted = beat, is_preempted
        self._expert = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, task: WorkerTask) -> Self:
        """Start the mate, whose expert the task names.

        Raises:
            StoreFull: There is no room for its task.
            OSError: There is no process to be had.
        """
        assert task.expert is not None
        self._expert, self._folder = task.expert, self._folder.of_mate(task.expert)
        write_task(self._folder, task)
        command = [sys.executable, *self._worker, str(self._folder.path), task.expert]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.PIPE, pass_fds=(self._lock,)
        )
        return self

    def __enter__(self) -> Self:
        """Return the mate, which runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have it end."""
        self.end()
        self.wait()
        assert self._process is not None
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def ended(self) -> Outcome | None:
        """Return how it ended, None before it did."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return None
        outcome = read_outcome(self._folder)
        if outcome is not None:
            return outcome
        if status == -signal.SIGTERM:  # before it could heed it
            return Outcome(ending="preempted")
        how = f"signal {-status}" if status < 0 else f"status {status}"
        message = f"the process that trains the {self._expert} ended with {how} and no outcome"
        if words := log_tail(self._folder.log):
            message += f"; the worker's log ends with: {words}"
        return Outcome(ending="failed", reason="WORKER_LOST", message=message)

    def end(self) -> None:
        """Ask for a checkpoint and an end, if it runs; returns at once."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> Outcome:
        """Return how it ended, once it has; for how long that may take its heartbeat decides."""
        while True:
            if (outcome := self.ended()) is not None:
                return outcome
            self._beat()
            if self._is_preempted():
                self.end()
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_S)
