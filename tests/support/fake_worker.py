"""Run as a program: a worker without a model, that speaks the protocol of an attempt's folder.

``python fake_worker.py ATTEMPT_DIR``. What it does stands in its task's spec, a JSON object:
``steps`` to train, ``step_s`` each takes; ``crash_at``, ``hang_at``, ``fail_at`` a step, in the
attempts that ``on`` lists; ``crash_after`` a step that it trained and told a checkpoint of, in
every attempt, which was due unless ``is_due`` is false; ``is_users`` of a failure; ``deaf`` to
SIGTERM. It goes on at the step that its job's last checkpoint, a file with a number, says.

``marks`` in the job's folder gets a line with the attempt and the time every few milliseconds that
it lives, from its first to its last.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__: list[str] = []

MARK_S = 0.005


class Worker:
    """One attempt; ``run`` is the whole of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.job_dir = folder, folder.parent.parent
        self.task: dict[str, Any] = json.loads((folder / "task.json").read_text())
        self.spec: dict[str, Any] = json.loads(self.task["spec"])
        self.is_told_to_end = False
        self.telling = threading.Lock()
        on = self.spec.get("on", [1])
        self.does = self.spec if self.task["attempt"] in on else {}

    def run(self) -> None:
        """Train to the end, or as far as the spec and the owner let it."""
        threading.Thread(target=self.mark, daemon=True).start()
        threading.Thread(target=self.die_on_a_loose_leash, daemon=True).start()
        signal.signal(signal.SIGTERM, self.on_term)
        with (self.job_dir / "worker.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.beat()
            self.tell("prepared", num_images=1, num_embeddings=2, num_encoded=2, num_parameters=3)
            self.train()

    def train(self) -> None:
        """Do the steps that are left."""
        saved = self.job_dir / "checkpoints" / "step"
        saved.parent.mkdir(exist_ok=True)
        done = int(saved.read_text()) if saved.exists() else 0
        num_steps = int(self.spec.get("steps", 3))
        for step in range(done + 1, num_steps + 1):
            self.misbehave(step)
            threading.Event().wait(float(self.spec.get("step_s", 0.01)))
            self.beat()
            with self.telling:  # a step that is saved and not told is told by nobody
                write_whole(saved, str(step))
                self.tell("progress", expert="single", step=step, num_steps=num_steps, loss=0.5)
            if self.spec.get("crash_after"):
                is_due = self.spec.get("is_due", True)
                self.tell("checkpoint", expert="single", step=step, is_due=is_due)
                os._exit(3)
            if (wish := self.folder / "wish").exists() and not self.spec.get("heedless"):
                self.end({"ending": "stopped", "message": wish.read_text()})
            if self.is_told_to_end:
                self.end({"ending": "preempted"})
        result = {"name": "huggy", "digests": {"single": "sha256:" + "0" * 64}, "timesteps": {}}
        self.end({"ending": "succeeded", "result": result})

    def misbehave(self, step: int) -> None:
        """Crash, hang or fail at this step, if that is what the spec wants of this attempt."""
        if self.does.get("crash_at") == step:
            with (self.folder / "events.jsonl").open("a") as events:
                events.write('{"kind": "progress", "da')
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os._exit(3)
        if self.does.get("hang_at") == step:
            threading.Event().wait()
        if self.does.get("fail_at") == step:
            self.end(
                {
                    "ending": "failed",
                    "reason": "LOSS_NOT_FINITE",
                    "message": f"step {step}",
                    "is_users": bool(self.does.get("is_users")),
                }
            )

    def tell(self, kind: str, **data: object) -> None:
        """Append an event."""
        with (self.folder / "events.jsonl").open("a") as events:
            events.write(json.dumps({"kind": kind, "data": data}) + "\n")

    def beat(self) -> None:
        """Give a sign of life."""
        (self.folder / "heartbeat").write_text(str(time.monotonic_ns()))

    def end(self, outcome: dict[str, object]) -> None:
        """Say how it ended, and end."""
        whole = {"reason": "", "message": "", "is_users": False, "result": {}} | outcome
        write_whole(self.folder / "outcome.json", json.dumps(whole))
        sys.exit(0)

    def mark(self) -> None:
        """Leave traces for as long as it lives."""
        with (self.job_dir / "marks").open("a") as marks:
            while True:
                marks.write(f"{self.task['attempt']} {time.monotonic_ns()}\n")
                marks.flush()
                threading.Event().wait(MARK_S)

    def die_on_a_loose_leash(self) -> None:
        """End at once when the owner is gone."""
        sys.stdin.buffer.read()
        with self.telling:
            os._exit(9)

    def on_term(self, *_: object) -> None:
        """End after this step, unless deaf."""
        self.is_told_to_end = not self.spec.get("deaf")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    Worker(Path(sys.argv[1])).run()
