"""Loops of one expert over real feeders: begun, stopped and gone on with.

Run as a program it is one of several processes that train together.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin

from diptych.datasets.spec import Manifest
from diptych.diffusion.schedule import NoiseSchedule
from diptych.digest import Digest
from diptych.storage.local import LocalBlobs
from diptych.training.checkpoints import Checkpoints
from diptych.training.devices import joined
from diptych.training.events import EventKind
from diptych.training.expert_state import ExpertState
from diptych.training.experts import ExpertPlan
from diptych.training.loop import ExpertLoop, LoopConfig, Stop
from diptych.training.objective import Objective
from diptych.training.spec import JobSpec, RunSpec
from diptych.training.trainables.trainable import Trainable
from support.fed import FEED, a_feeder, some_plans
from support.planned import spec_of
from support.small_trainable import SmallTrainable

__all__ = ["PLAN", "Ears", "a_job", "a_loop", "trained"]

PLAN = ExpertPlan(expert="base", source="nano", first_timestep=350, last_timestep=999)
SCHEDULE = NoiseSchedule()
SPEC = Digest.of_bytes(b"a job")


@dataclass
class Ears:
    """Hears what a loop tells."""

    told: list[tuple[EventKind, Mapping[str, object]]] = field(default_factory=list)
    num_beats: int = 0

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        self.told.append((kind, data))

    def beat(self) -> None:
        self.num_beats += 1

    def of(self, kind: EventKind) -> list[Mapping[str, object]]:
        return [data for one, data in self.told if one is kind]


def a_job(
    *, num_steps: int = 8, run: Mapping[str, object] | None = None, **more: object
) -> JobSpec:
    """Return a job of float32 on a CPU."""
    own = {"num_steps": num_steps, "precision": "fp32", "gradient_checkpointing": False}
    return JobSpec(
        name="job",
        dataset=Manifest(datasets=(spec_of(),)),
        run=RunSpec(**(own | dict(run or {}))),  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


@dataclass
class Stops:
    """Asks to stop when a loop has done so many steps."""

    after: int
    why: Stop = "preempted"
    asked: int = 0

    def __call__(self) -> Stop | None:
        self.asked += 1
        return self.why if self.asked == self.after else None


def a_loop(
    spec: JobSpec,
    folder: Path,
    *,
    trainable: Trainable | None = None,
    ears: Ears | None = None,
    stop_after: int | None = None,
    config: LoopConfig | None = None,
) -> ExpertLoop:
    """Return a loop at its beginning, whose checkpoints lie in ``folder``."""
    plugin = None
    if spec.run.sharding == "fsdp2":
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    trainable = trainable or SmallTrainable()
    trainable.modules = joined(accelerator, trainable.modules)
    state = ExpertState(
        trainable, spec, PLAN, place=0, num_steps=spec.run.num_steps or 1, accelerator=accelerator
    )
    return ExpertLoop(
        state,
        Objective(SCHEDULE, spec.objective, PLAN.timesteps),
        accelerator,
        config or LoopConfig(draws=FEED.draws, progress_s=0.0),
        write=checkpoints_in(folder).write,
        teller=ears or Ears(),
        stop_asked=Stops(stop_after or 0),
    )


def checkpoints_in(folder: Path) -> Checkpoints:
    """Return the checkpoints of a job."""
    return Checkpoints(LocalBlobs(folder), spec=SPEC, keep=2, warn=lambda *_: None)


def trained(
    spec: JobSpec,
    data: Path,
    folder: Path,
    *,
    more: str = "",
    num_workers: int = 0,
    loop: ExpertLoop | None = None,
) -> ExpertLoop:
    """Run a loop, from the latest checkpoint in ``folder`` if there is one, and return it."""
    loop = loop or a_loop(spec, folder)
    accelerator = Accelerator(cpu=True)
    found = checkpoints_in(folder).latest()
    if found is not None:
        loop.state.restore(found)
    config = replace(
        FEED,
        num_workers=num_workers,
        num_accumulated=spec.run.num_accumulated,
        rank=accelerator.process_index,
        num_ranks=accelerator.num_processes,
    )
    feeder = a_feeder(some_plans(data, more), config, num_epochs=1000)
    with closing(feeder.steps(loop.state.position)) as steps:
        loop.run(steps)
    return loop


def main(data: Path, folder: Path, sharding: str) -> None:
    """Train for four steps as one of several processes and say how far the loss came."""
    spec = a_job(num_steps=4, run={"sharding": sharding})
    ears = Ears()
    trained(spec, data, folder, loop=a_loop(spec, folder, ears=ears))
    losses = [data["loss"] for data in ears.of(EventKind.PROGRESS)]
    sys.stdout.write(json.dumps(losses) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
