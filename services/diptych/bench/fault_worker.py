"""Run as a program: a worker that leaves marks of its life, for ``training_faults`` to judge.

``python -m diptych.bench.fault_worker real|stand-in ATTEMPT_DIR``. The stand-in trains nothing, and
so starts at once: each step makes a digest of the one before, so that a step which is lost or done
twice shows in the result.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from diptych.storage.partial import write_whole
from diptych.training.events import EventKind
from diptych.training.reporting import Reporter
from diptych.training.task import AttemptFolder, Outcome, WorkerTask

__all__ = ["MARKS", "folder_of", "leave_marks", "main", "pretend"]

MARKS: Final = "marks"
"""In a job's folder: a line with attempt, process and time for every moment that a worker lived."""
MARK_S: Final = 0.01
STEP_S: Final = 0.05


def main(arguments: list[str] | None = None) -> int:
    """Do an attempt as ``real`` or ``stand-in`` says, and return the exit status."""
    kind, path = sys.argv[1:] if arguments is None else arguments
    folder = folder_of(Path(path))
    threading.Thread(target=leave_marks, args=(folder,), daemon=True).start()
    if kind == "real":
        from diptych.training.worker import main as train  # noqa: PLC0415 - a stand-in needs none

        return train([path])
    is_told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_told_to_end.set())
    threading.Thread(target=_hold_leash, daemon=True).start()
    with folder.lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reporter = Reporter(folder)
        reporter.end(pretend(folder, reporter, is_told_to_end))
    return 0


def folder_of(path: Path) -> AttemptFolder:
    """Return the folder of the attempt whose files lie in ``path``."""
    return AttemptFolder(job_dir=path.absolute().parent.parent, attempt=int(path.name))


def leave_marks(folder: AttemptFolder) -> None:
    """Leave a mark every moment; never returns."""
    with (folder.job_dir / MARKS).open("ab", buffering=0) as file:
        while True:
            file.write(f"{folder.attempt} {os.getpid()} {time.monotonic_ns()}\n".encode())
            time.sleep(MARK_S)


def pretend(
    folder: AttemptFolder,
    reporter: Reporter,
    is_told_to_end: threading.Event,
    step_s: float = STEP_S,
) -> Outcome:
    """Go through a job's steps from its last checkpoint on, and return how that ended."""
    spec = json.loads(WorkerTask.from_json(folder.task.read_text(encoding="utf-8")).spec)
    num_steps, saved = int(spec["run"]["num_steps"]), folder.checkpoints / "state.json"
    state: dict[str, Any] = {
        "step": 0,
        "digest": hashlib.sha256(str(spec["run"]["seed"]).encode()).hexdigest(),
    }
    if saved.exists():
        state = json.loads(saved.read_text(encoding="utf-8"))
    reporter.tell(EventKind.PREPARED, {"num_images": 0})
    for step in range(int(state["step"]) + 1, num_steps + 1):
        time.sleep(step_s)
        state = {"step": step, "digest": _next(str(state["digest"]), step)}
        write_whole(saved, [json.dumps(state).encode()], partials=folder.job_dir / ".partial")
        told = {"expert": "single", "step": step, "num_steps": num_steps, "loss": 1.0 / step}
        reporter.tell(EventKind.PROGRESS, told)
        if reporter.wish() is not None:
            return Outcome(ending="stopped")
        if is_told_to_end.is_set():
            return Outcome(ending="preempted")
    digests = {"single": f"sha256:{state['digest']}"}
    result = {"name": spec["name"], "digests": digests, "timesteps": {}}
    return Outcome(ending="succeeded", result=result)


def _next(digest: str, step: int) -> str:
    return hashlib.sha256(f"{digest} {step}".encode()).hexdigest()


def _hold_leash() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
