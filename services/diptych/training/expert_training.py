"""One expert of a job: its network, feeder, state and loop put together, and run."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from accelerate import Accelerator

from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.datasets.places import Places
from diptych.datasets.plan import Plan
from diptych.datasets.sampling import Sampler
from diptych.training.checkpoints import Checkpoint, Checkpoints
from diptych.training.dataset_files import DatasetFiles
from diptych.training.devices import compile_blocks, joined
from diptych.training.embedding_reading import EmbeddingReader
from diptych.training.encoder_choice import choose_stage
from diptych.training.expert_state import ExpertState
from diptych.training.experts import ExpertPlan
from diptych.training.feeding import FeedConfig, Feeder
from diptych.training.keyed_draws import KeyedDraws
from diptych.training.loop import ExpertLoop, LoopConfig, Stop, Teller
from diptych.training.objective import Objective
from diptych.training.run_length import count_steps, sampler_config
from diptych.training.spec import JobSpec
from diptych.training.trainables.trained_expert import TrainedExpert

__all__ = ["ExpertTraining", "TrainingMeans"]

EMBEDDING_MEMORY_BYTES: Final = 512 << 20
"""Of embeddings that a worker remembers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingMeans:
    """What every expert of a job is trained with."""

    spec: JobSpec
    plans: Mapping[str, Plan]
    cache: EmbeddingCacheClient
    cache_address: str
    """What errors call it."""
    places: Places
    accelerator: Accelerator
    reporter: Teller
    checkpoints: Checkpoints
    stop_asked: Callable[[], Stop | None]


class ExpertTraining:
    """Trains one expert from its model, or from a checkpoint of it."""

    def __init__(
        self,
        means: TrainingMeans,
        plan: ExpertPlan,
        *,
        place: int,
        load: Callable[..., TrainedExpert],
    ) -> None:
        """Load the network and put the rest around it.

        Args:
            means: The job's.
            plan: The expert's.
            place: Of the expert in the order in which the job trains them, from 0.
            load: Loads the network on a ``device``.

        Raises:
            EncodersMismatch: The cache encodes with other encoders than the model's.
            DiptychError: What loading raises.
        """
        self.plan, self._means = plan, means
        accelerator, spec = means.accelerator, means.spec
        trainable = load(device=accelerator.device)
        self.num_parameters = sum(
            one.numel() for group in trainable.groups for one in group.parameters
        )
        self.num_steps = count_steps(spec, means.plans, num_ranks=accelerator.num_processes)
        self._draws = KeyedDraws(seed=spec.run.seed, expert=plan.expert)
        self._feeder = self._make_feeder(trainable)
        schedule = trainable.facts.opened.schedule
        self._objective = Objective(schedule, spec.objective, plan.timesteps)
        if spec.run.compile:
            compile_blocks(trainable.modules)
        trainable.modules = joined(accelerator, trainable.modules)
        self._state = ExpertState(
            trainable,
            spec,
            plan,
            place=place,
            num_steps=self.num_steps,
            accelerator=accelerator,
        )

    def run(self, resumed: Checkpoint | None) -> Stop | None:
        """Train to the end, or until asked to stop; raises what ``ExpertLoop.run`` does.

        Args:
            resumed: A checkpoint of this expert, or of one before it, which does not count.
        """
        spec, accelerator = self._means.spec, self._means.accelerator
        if resumed is not None and resumed.expert == self.plan.expert:
            self._state.restore(resumed)
        loop = ExpertLoop(
            self._state,
            self._objective,
            accelerator,
            LoopConfig(
                draws=self._draws,
                max_grad_norm=spec.run.max_grad_norm,
                regularisation_weight=spec.objective.regularisation_weight,
                checkpoint_every=spec.checkpoints.every_steps,
            ),
            write=self._means.checkpoints.write,
            teller=self._means.reporter,
            stop_asked=self._means.stop_asked,
        )
        with closing(self._feeder.steps(self._state.position)) as steps:
            return loop.run(steps)

    def _make_feeder(self, trainable: TrainedExpert) -> Feeder:
        means, opened = self._means, trainable.facts.opened
        spec, accelerator = means.spec, means.accelerator
        hosted = means.cache.encoders()
        stage = choose_stage(
            opened, hosted, cache=means.cache_address, trains_text=trainable.trains_text
        )
        pipeline: Mapping[str, Any] = opened.checkpoint.pipeline
        order = sampler_config(
            spec, rank=accelerator.process_index, num_ranks=accelerator.num_processes
        )
        return Feeder(
            Sampler(means.plans, order),
            means.plans,
            EmbeddingReader(
                means.cache,
                stage=stage,
                memory_bytes=EMBEDDING_MEMORY_BYTES,
                is_asked_to_stop=lambda: means.stop_asked() is not None,
            ),
            DatasetFiles(means.plans, means.places),
            FeedConfig(
                draws=self._draws,
                encoders=hosted[stage],
                family=opened.family,
                zeros_when_dropped=bool(pipeline.get("force_zeros_for_empty_prompt", True)),
                trains_text=trainable.trains_text,
                rank=order.rank,
                num_ranks=order.num_ranks,
                num_accumulated=order.num_accumulated,
                num_workers=spec.run.num_loader_workers,
            ),
        )
