"""The process that trains a job: on a leash, alone with the job, and clear about how it ends.

``python -m diptych.training.worker ATTEMPT_DIR``, several of them under torchrun. What an owner
needs of it is in ``task``. A worker of two experts starts its mate as ``... ATTEMPT_DIR EXPERT``.
"""

import fcntl
import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from diptych.errors import DiptychError
from diptych.telemetry.logging import bind, configure_logging
from diptych.training.mate import Mate
from diptych.training.reporting import Reporter, Silence
from diptych.training.spec import JobSpec
from diptych.training.spec_text import parse_job
from diptych.training.task import AttemptFolder, Outcome, WorkerTask

__all__ = ["failure", "held_lock", "main", "uncollected"]

_log = logging.getLogger(__name__)

LET_GO: Final = 70
"""Exit status of a worker whose owner is gone."""
_USERS: Final = frozenset(
    {
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
    }
)
"""Codes of errors that would come again however often the job is tried."""
_HEAVY: Final = ("diptych.training.devices", "diptych.training.session")
"""What brings torch and diffusers, which takes seconds."""
_LOOK_S: Final = 0.2
_TOGETHER: Final = timedelta(days=1)
"""How long processes wait for one of them, which may be indexing a dataset; who watches over a
worker that hangs is its owner."""
_MEMORY_HINT: Final = (
    "the device has too little memory: a smaller run.batch_size with more run.num_accumulated, "
    "run.gradient_checkpointing or fewer trained weights need less"
)


def main(arguments: list[str] | None = None) -> int:
    """Do what the attempt's task says and return the exit status: 0 once the outcome is written."""
    given, *mate = sys.argv[1:] if arguments is None else arguments
    path = Path(given).absolute()
    folder = AttemptFolder(job_dir=path.parent.parent, attempt=int(path.name))
    folder = folder.of_mate(mate[0]) if mate else folder
    preempted = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: preempted.set())
    threading.Thread(target=_hold_leash, name="leash", daemon=True).start()
    configure_logging()
    with uncollected():
        for name in _HEAVY:
            importlib.import_module(name)
    task = WorkerTask.from_json(folder.task.read_text(encoding="utf-8"))
    expert = {} if task.expert is None else {"expert": task.expert}
    with bind(job_id=task.job_id, attempt=task.attempt, **expert):
        return _train(task, folder, preempted)


def failure(error: BaseException) -> Outcome:
    """Return how a worker ends that met ``error``."""
    if isinstance(error, DiptychError):
        is_users = error.code in _USERS
        return Outcome(ending="failed", reason=error.reason, message=str(error), is_users=is_users)
    if type(error).__name__ == "OutOfMemoryError":
        return Outcome(
            ending="failed", reason="OUT_OF_DEVICE_MEMORY", message=_MEMORY_HINT, is_users=True
        )
    message = f"{type(error).__name__}: {error}"
    return Outcome(ending="failed", reason="WORKER_FAULT", message=message)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import within: what is loaded stays as long as the process does, and is not searched.

    Looking for garbage among five thousand modules while they come is a fifth of a worker's start,
    and each later collection would go through them again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def held_lock(path: Path, go_on: Callable[[], bool]) -> Iterator[int | None]:
    """Hold a job's lock and give its descriptor; None if ``go_on`` said no while another held it.

    Another process that has the descriptor goes on holding it after this one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        is_held = _try_lock(descriptor)
        while not is_held and go_on():
            threading.Event().wait(_LOOK_S)
            is_held = _try_lock(descriptor)
        yield descriptor if is_held else None
    finally:
        os.close(descriptor)


def _train(task: WorkerTask, folder: AttemptFolder, preempted: threading.Event) -> int:
    # Loaded by ``main`` already, after the leash and the signal's handler.
    from accelerate import Accelerator  # noqa: PLC0415

    from diptych.training.devices import make_accelerator  # noqa: PLC0415
    from diptych.training.session import Session, allowed_places  # noqa: PLC0415

    reporter = Reporter(folder)

    def is_wanted() -> bool:
        reporter.beat()
        return not preempted.is_set()

    def outcome_of(spec: JobSpec, accelerator: Accelerator) -> Outcome:
        is_main = accelerator.is_main_process
        told = reporter if is_main else Silence()
        session = partial(Session, task, spec, folder, accelerator, told)
        if not is_main or task.expert is not None:
            return session(is_preempted=preempted.is_set).run()
        with held_lock(folder.lock, is_wanted) as lock:
            if lock is None:
                return Outcome(ending="preempted")
            mate = Mate(folder, lock=lock, beat=reporter.beat, is_preempted=preempted.is_set)
            own = mate if spec.run.side_by_side else None
            return session(is_preempted=preempted.is_set, mate=own).run()

    is_main = True
    try:
        places = allowed_places(task)
        spec = parse_job(task.spec.encode(), folder=Path(task.home), places=places)
        accelerator = make_accelerator(task, spec, timeout=_TOGETHER)
        is_main = accelerator.is_main_process
        outcome = outcome_of(spec, accelerator)
    except Exception as error:  # noqa: BLE001 - fails the job, and tells its owner how
        _log.exception("the job failed")
        outcome = failure(error)
        is_main = is_main or isinstance(error, DiptychError)
    # Of several processes the first to fail says why; others only see that it is gone.
    if is_main and not folder.outcome.exists():
        reporter.end(outcome)
    return 0 if outcome.ending != "failed" else 1


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hold_leash() -> None:
    """End this process at once when standard input ends: its owner is gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(LET_GO)


if __name__ == "__main__":
    sys.exit(main())
