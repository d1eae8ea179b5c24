"""Training jobs while what they hang on is killed or cut: none may be lost, doubled or altered.

Each job is asked to run to its end, to pause and go on, or to be cancelled. An undisturbed run of
every kind of job comes first; what a disturbed one makes must be the same.
"""

import itertools
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

from diptych.bench.fault_places import MODEL, Places, open_places
from diptych.bench.fault_worker import MARKS
from diptych.errors import JobStateConflict, LedgerUnavailable
from diptych.nano.pictures import draw_examples
from diptych.training.attempt_files import job_dir
from diptych.training.events import Event, EventKind
from diptych.training.ledger.jobs import Job, NewJob
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from diptych.training.spec_text import parse_job, to_json
from diptych.training.states import ENDED, JobState

__all__ = ["FaultsConfig", "FaultsFound", "JobSeen", "judge", "measure_faults", "overlaps"]

TENANT: Final = "default"
"""Whom a server that asks for no token answers."""
NUM_KINDS: Final = 2
"""Of jobs, by their seeds."""
WORKER_SHARE: Final = 3
"""How many workers are killed for each of the others."""
FAULTS_A_JOB: Final = 2.0
"""In the time that an undisturbed job takes."""
NUM_PICTURES: Final = 6
LOOK_S: Final = 0.1
GONE_S: Final = (0.0, 0.2, 0.5, 1.0, 4.0)
"""How long what is broken stays so; the last is longer than a lease."""
NEVER: Final = float("inf")
Asked = Literal["end", "pause", "cancel"]
ASKED: Final[Sequence[Asked]] = ("end", "pause", "end", "cancel", "end")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultsConfig:
    """How many jobs, of what kind, and how they are disturbed."""

    num_jobs: int = 50
    seed: int = 0
    is_real: bool = False
    is_on_postgres: bool | None = None
    """None takes PostgreSQL where it is installed."""
    timeout_s: float = 3600.0
    """After which what has not ended is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """What is known of one job in the end."""

    asked: Asked
    job: Job
    events: Sequence[Event]
    marks: str
    """What its workers left."""
    wanted: Mapping[str, object]
    """What the same job made undisturbed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultsFound:
    """What was done to jobs, and how many of them came to harm."""

    num_jobs: int
    ledger: str
    workers: str
    seconds: float
    asked: Mapping[str, int]
    kills: Mapping[str, int]
    num_attempts: int
    lost: int
    """Did not end."""
    overlapped: int
    """Had two workers at once."""
    ended_otherwise: int
    misnumbered: int
    """Have events that are missing, doubled or out of order."""
    unlike: int
    """Made something else than undisturbed."""

    @property
    def holds(self) -> bool:
        """Whether none came to harm."""
        harmed = (self.lost, self.overlapped, self.ended_otherwise, self.misnumbered, self.unlike)
        return not any(harmed)


def measure_faults(
    config: FaultsConfig, folder: Path, *, progress: Callable[[], None] = lambda: None
) -> FaultsFound:
    """Run the jobs in ``folder``, which is empty, and look what became of them.

    Args:
        config: What to do.
        folder: On a disk with room; holds logs afterwards.
        progress: Called when a job has ended.

    Raises:
        ExtraMissing: Something is not installed.
        ServerUnreachable: Something does not begin to answer.
    """
    if config.is_real:
        _draw_pictures(folder / "data")
    texts = [_spec(folder, number, is_real=config.is_real) for number in range(NUM_KINDS)]
    opened = open_places(folder, is_real=config.is_real, is_on_postgres=config.is_on_postgres)
    with opened as places, closing(open_ledger(places.ledger_url)) as ledger:
        rng = random.Random(config.seed)  # noqa: S311 - a workload, no secret
        undisturbed = _Campaign(ledger, places, config, rng)
        undisturbed.submit([(text, "end") for text in texts])
        undisturbed.run(progress)
        wanted = [_result(job) for job in undisturbed.jobs()]
        usual_s = statistics.mean(_seconds(job) for job in undisturbed.jobs())
        campaign = _Campaign(ledger, places, config, rng, usual_s)
        wishes = list(itertools.islice(itertools.cycle(ASKED), config.num_jobs))
        rng.shuffle(wishes)
        campaign.submit(list(zip(itertools.cycle(texts), wishes, strict=False)))
        began = time.monotonic()
        with ThreadPoolExecutor(len(places.breaks), "breaks") as pool:
            campaign.run(progress, pool)
        seconds = time.monotonic() - began
        seen = list(campaign.seen(itertools.cycle(wanted)))
    return judge(seen, config, ledger=places.ledger, seconds=seconds, kills=campaign.kills)


def judge(
    seen: Sequence[JobSeen],
    config: FaultsConfig,
    *,
    ledger: str,
    seconds: float,
    kills: Mapping[str, int],
) -> FaultsFound:
    """Return how many of the jobs came to harm, and how."""
    ended = [one for one in seen if one.job.state in ENDED]
    made = [one for one in ended if one.job.state is JobState.SUCCEEDED]
    return FaultsFound(
        num_jobs=len(seen),
        ledger=ledger,
        workers="real" if config.is_real else "stand-in",
        seconds=seconds,
        asked=dict(Counter(one.asked for one in seen)),
        kills=dict(kills),
        num_attempts=sum(one.job.attempt for one in seen),
        lost=len(seen) - len(ended),
        overlapped=sum(overlaps(one.marks) for one in seen),
        ended_otherwise=sum(not _is_as_asked(one) for one in ended),
        misnumbered=sum(not _is_in_order(one) for one in seen),
        unlike=sum(one.job.result != one.wanted for one in made),
    )


def overlaps(marks: str) -> bool:
    """Return whether two workers lived at the same time."""
    lives: dict[int, tuple[int, int]] = {}
    for line in marks.splitlines():
        attempt, _, at = (int(word) for word in line.split())
        first, last = lives.get(attempt, (at, at))
        lives[attempt] = min(first, at), max(last, at)
    ordered = [lives[attempt] for attempt in sorted(lives)]
    return any(last >= first for (_, last), (first, _) in itertools.pairwise(ordered))


def _is_as_asked(seen: JobSeen) -> bool:
    """Return whether a job ended so; one may have been done before it could be cancelled."""
    if seen.asked == "cancel":
        return seen.job.state in {JobState.CANCELLED, JobState.SUCCEEDED}
    return seen.job.state is JobState.SUCCEEDED


def _is_in_order(seen: JobSeen) -> bool:
    numbers = [event.number for event in seen.events]
    if numbers != list(range(1, seen.job.last_event + 1)):
        return False
    steps: dict[int, list[int]] = {}
    for event in seen.events:
        if event.kind is EventKind.PROGRESS:
            steps.setdefault(event.attempt, []).append(int(str(event.data["step"])))
    return all(told == sorted(set(told)) for told in steps.values())


@dataclass(slots=True)
class _Fate:
    """A job on its way: what is asked of it, and when."""

    job: Job
    asked: Asked
    wish_at: float = NEVER
    resume_at: float = NEVER


@dataclass(slots=True)
class _Campaign:
    """Sees jobs to their ends; owned by one thread."""

    ledger: Ledger
    places: Places
    config: FaultsConfig
    rng: random.Random
    usual_s: float = 1.0
    """What a job takes."""
    kills: Counter[str] = field(default_factory=Counter)
    _fates: list[_Fate] = field(default_factory=list)
    _turns: list[str] = field(default_factory=list)
    _under_way: dict[str, "Future[None]"] = field(default_factory=dict)

    def submit(self, asked: Sequence[tuple[str, Asked]]) -> None:
        """Queue jobs; nothing is broken yet."""
        for text, wish in asked:
            new = NewJob(tenant=TENANT, name=json.loads(text)["name"], spec=text, request_id="")
            self._fates.append(_Fate(job=self.ledger.create(new), asked=wish))

    def run(self, progress: Callable[[], None], pool: ThreadPoolExecutor | None = None) -> None:
        """Return when every job has ended, or the time is over; break things in ``pool``."""
        until = time.monotonic() + self.config.timeout_s
        rate = FAULTS_A_JOB / self.usual_s
        break_at = time.monotonic() + self.rng.expovariate(rate)
        open_fates = list(self._fates)
        while open_fates and time.monotonic() < until:
            if pool is not None and time.monotonic() >= break_at:
                self._break_something(pool)
                break_at = time.monotonic() + self.rng.expovariate(rate)
            for fate in tuple(open_fates):
                self._attend(fate)
                if fate.job.state in ENDED:
                    open_fates.remove(fate)
                    progress()
            time.sleep(LOOK_S)
        for one in self._under_way.values():
            one.result()

    def jobs(self) -> list[Job]:
        """Return the jobs, in the order of their submission."""
        return [fate.job for fate in self._fates]

    def seen(self, wanted: Iterator[Mapping[str, object]]) -> Iterator[JobSeen]:
        """Yield what there is to judge of each job."""
        for fate, result in zip(self._fates, wanted, strict=False):
            marks = job_dir(self.places.home, tenant=TENANT, job_id=fate.job.id) / MARKS
            yield JobSeen(
                asked=fate.asked,
                job=self._look(fate),
                events=self._told(fate.job.id),
                marks=marks.read_text(encoding="utf-8") if marks.exists() else "",
                wanted=result,
            )

    def _told(self, job_id: str) -> Sequence[Event]:
        return self._insist(lambda: self.ledger.events(job_id, tenant=TENANT, limit=10**6))

    def _attend(self, fate: _Fate) -> None:
        """Look at a job, and ask of it what it is time to ask."""
        now, before = time.monotonic(), fate.job.state
        job = fate.job = self._look(fate)
        is_first_start = before is JobState.QUEUED and job.state is not before
        if fate.asked != "end" and is_first_start and fate.wish_at == NEVER:
            fate.wish_at = now + self.rng.uniform(0, self.usual_s)
        if now >= fate.wish_at and job.state not in ENDED:
            fate.wish_at = NEVER
            wish: Literal["pause", "cancel"] = "pause" if fate.asked == "pause" else "cancel"
            with suppress(JobStateConflict):
                self._insist(lambda: self.ledger.wish(job.id, wish, tenant=TENANT))
        if job.state is JobState.PAUSED and fate.resume_at == NEVER:
            fate.resume_at = now + self.rng.uniform(0, 1)
        if job.state is JobState.PAUSED and now >= fate.resume_at:
            fate.resume_at = NEVER
            with suppress(JobStateConflict):
                self._insist(lambda: self.ledger.resume(job.id, tenant=TENANT))

    def _look(self, fate: _Fate) -> Job:
        return self._insist(lambda: self.ledger.get(fate.job.id, tenant=TENANT))

    def _break_something(self, pool: ThreadPoolExecutor) -> None:
        """Kill a worker, or break what is whole; each kind has its turn before any comes again."""
        if not self._turns:
            self._turns = [*["worker"] * WORKER_SHARE, *self.places.breaks]
            self.rng.shuffle(self._turns)
        kind = self._turns.pop()
        gone_s = self.rng.choice(GONE_S)
        if kind == "worker":
            self.kills[kind] += self._kill_worker()
            return
        if kind in self._under_way:
            if not self._under_way[kind].done():
                return
            self._under_way[kind].result()
        self._under_way[kind] = pool.submit(self.places.breaks[kind], gone_s)
        self.kills[kind] += 1

    def _kill_worker(self) -> bool:
        """Kill the worker of a job that has one."""
        running = [
            f.job for f in self._fates if f.job.state in {JobState.PREPARING, JobState.RUNNING}
        ]
        self.rng.shuffle(running)
        for job in running:
            path = job_dir(self.places.home, tenant=TENANT, job_id=job.id)
            pid = _living_worker(path)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def _insist(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` comes to, however often the ledger's line is cut meanwhile."""
        while True:
            try:
                return work()
            except LedgerUnavailable:
                time.sleep(LOOK_S)


def _result(job: Job) -> Mapping[str, object]:
    """Return what an undisturbed job made."""
    assert job.result is not None, f"a job that nothing disturbed ended so: {job}"
    return job.result


def _seconds(job: Job) -> float:
    """Return how long an ended job took."""
    assert job.started_at is not None
    assert job.ended_at is not None
    return (job.ended_at - job.started_at).total_seconds()


def _living_worker(path: Path) -> int | None:
    """Return the process that left a job's last mark, if it is still the job's worker."""
    try:
        lines = (path / MARKS).read_text(encoding="utf-8").splitlines()
        pid = int(lines[-1].split()[1])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, IndexError, ValueError):
        return None
    return pid if os.fsencode(path) in command else None


def _spec(folder: Path, number: int, *, is_real: bool) -> str:
    """Return a job; a stand-in names an expert's folder, so that no adapter is looked for."""
    plain = {
        "name": f"kind-{number}",
        "model": {"source": MODEL},
        "method": "lora" if is_real else "full",
        "dataset": {
            "datasets": [
                {
                    "id": "drawn",
                    "source": {"type": "folder", "path": str(folder / "data")},
                    "size": {"resolution": 64},
                    "checks": {"near_duplicates": "ignore"},
                }
            ]
        },
        "run": {
            "num_steps": 8 if is_real else 20,
            "seed": number,
            "precision": "fp32",
            "batch_size": 2,
            "gradient_checkpointing": False,
        },
        "checkpoints": {"every_steps": 2, "keep": 2},
    }
    if is_real:
        plain["adapter"] = {"rank": 4}
    return to_json(parse_job(json.dumps(plain).encode(), folder=folder))


def _draw_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, example in enumerate(draw_examples("plain", count=NUM_PICTURES)):
        example.picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(example.text, encoding="utf-8")
