"""What passes between a job's owner and its worker: files in the job's folder, nothing else.

::

    <job folder>/
      worker.lock              held by the worker for as long as it lives; a second one waits
      attempts/<n>/task.json   what the n-th worker is to do; written before it starts
      attempts/<n>/events.jsonl  what it tells, a line each, in order; only ever appended to
      attempts/<n>/heartbeat   touched at every step, and while it prepares
      attempts/<n>/wish        cancel or pause: the worker stops after the step, with a checkpoint
      attempts/<n>/outcome.json  how it ended; written whole, last; absent after a crash
      attempts/<n>/log         its standard output and error
      checkpoints/             of all attempts

A worker that trains two experts side by side has a mate, a process that it starts for the second.
The mate's task, heartbeat and outcome are files of its own, ``task-refiner.json`` and so on; it
tells into the same events, heeds the same wish, and holds the same lock as long as it lives.

The worker's standard input is its leash: it comes to an end when the owner dies, and then the
worker does at once, so that two never train one job. SIGTERM asks for a checkpoint and an end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

__all__ = ["AttemptFolder", "Ending", "Outcome", "Wish", "WorkerTask"]

Ending = Literal["succeeded", "stopped", "preempted", "failed"]
"""``stopped``: as a wish said; ``preempted``: after SIGTERM. Both left a checkpoint."""
Wish = Literal["cancel", "pause"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """What one worker is to do."""

    job_id: str
    tenant: str
    attempt: int
    """From 1."""
    spec: str
    """The job's spec as ``spec_text.to_json`` wrote it."""
    home: str
    """Folder of everything that services write, as the settings have it."""
    cache_address: str
    """Of the embedding cache's service, host:port."""
    cache_token_file: str | None = None
    device: str = "auto"
    checkpoint_url: str | None = None
    """``s3://BUCKET/PREFIX`` where checkpoints are kept; None keeps them in the job's folder."""
    adapter_url: str | None = None
    """``s3://BUCKET/PREFIX`` of the adapters' store; None is the folder below ``home``."""
    s3_endpoint: str | None = None
    dataset_dir: str | None = None
    """Folder that local paths of datasets must not leave. Where this and ``dataset_prefixes`` are
    None, a dataset may name any place."""
    dataset_prefixes: Sequence[str] | None = None
    """``s3://BUCKET/PREFIX`` below which datasets may lie; the hub and urls are not allowed."""
    grace_s: float = 30.0
    """From SIGTERM until the worker is killed."""
    expert: str | None = None
    """Of a mate's task: the one expert to train; nothing is encoded or exported."""
    num_embeddings: int = 0
    """Of a mate's task: how many its worker found or made, for the mate to tell."""
    num_encoded: int = 0
    """Likewise, how many of them were made."""

    @property
    def is_compiled(self) -> bool:
        """Whether the job asks for torch's compiler."""
        return bool(json.loads(self.spec).get("run", {}).get("compile", False))

    def to_json(self) -> str:
        """Return the task as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the task that ``to_json`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a worker ended."""

    ending: Ending
    reason: str = ""
    """Of a failure: an error's stable reason."""
    message: str = ""
    is_users: bool = False
    """Whether a failure would come again: then it is not tried again."""
    result: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """As the event ``result`` has it."""

    def to_json(self) -> str:
        """Return the outcome as one JSON object."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(plain | {"result": dict(self.result)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the outcome that ``to_json`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFolder:
    """Where the files of one attempt lie."""

    job_dir: Path
    attempt: int
    mate: str | None = None
    """The expert of a worker's mate, whose files these are then."""

    def of_mate(self, expert: str) -> Self:
        """Return where the files of the worker's mate lie, which trains ``expert``."""
        return replace(self, mate=expert)

    @property
    def path(self) -> Path:
        """Return the attempt's own folder."""
        return self.job_dir / "attempts" / str(self.attempt)

    @property
    def lock(self) -> Path:
        """Return what a job's one worker holds."""
        return self.job_dir / "worker.lock"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of every attempt's checkpoints."""
        return self.job_dir / "checkpoints"

    @property
    def task(self) -> Path:
        """Return the file of the task."""
        return self._own("task", ".json")

    @property
    def events(self) -> Path:
        """Return the file of events."""
        return self.path / "events.jsonl"

    @property
    def heartbeat(self) -> Path:
        """Return the file whose time of change says that the worker lives."""
        return self._own("heartbeat")

    @property
    def wish(self) -> Path:
        """Return the file that says what the owner wants."""
        return self.path / "wish"

    @property
    def outcome(self) -> Path:
        """Return the file of the outcome."""
        return self._own("outcome", ".json")

    @property
    def log(self) -> Path:
        """Return the file of what the worker printed."""
        return self.path / "log"

    def _own(self, name: str, suffix: str = "") -> Path:
        mate = "" if self.mate is None else f"-{self.mate}"
        return self.path / f"{name}{mate}{suffix}"
