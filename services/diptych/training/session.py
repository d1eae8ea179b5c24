"""One job from its spec to what it is served as, in order; goes on where a checkpoint says."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import WarmCall
from diptych.datasets.expansion import Expansion
from diptych.datasets.manifest import write_manifest
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.plan import Plan, make_plans
from diptych.digest import Digest
from diptych.errors import DatasetInvalid, InvalidRequest, Unavailable
from diptych.models.experts import LoadOptions
from diptych.rpc.channel import ChannelConfig
from diptych.storage.s3 import S3Config
from diptych.training.checkpoints import Checkpoint, Checkpoints
from diptych.training.events import EventKind
from diptych.training.expert_state import RESULT
from diptych.training.expert_training import ExpertTraining, TrainingMeans
from diptych.training.experts import ExpertPlan, expert_plans, reads_trained_texts
from diptych.training.loop import Stop
from diptych.training.mate import Mate
from diptych.training.publishing import checkpoint_blobs, open_registry, publish
from diptych.training.rules import check_images, left_out, remarks
from diptych.training.spec import JobSpec
from diptych.training.task import AttemptFolder, Outcome, Wish, WorkerTask
from diptych.training.timestep_counts import TimestepCounts
from diptych.training.trainables.loading import load_trainable
from diptych.training.trainables.trained_expert import TrainedExpert

__all__ = ["Session", "SessionReporter", "allowed_places"]

DEFAULT_TENANT: Final = "default"
_CACHE_READY_S: Final = 60.0
_CACHE_LOOK_S: Final = 1.0
_CACHE_PAUSE_S: Final = 0.2
_MATES: Final = "refiner"
"""The expert that a worker leaves to its mate."""


def allowed_places(task: WorkerTask) -> Places:
    """Return what a job's dataset may make its worker read, as the job's owner allows it."""
    if task.dataset_dir is None and task.dataset_prefixes is None:
        return EVERYWHERE
    return Places(
        roots=() if task.dataset_dir is None else (Path(task.dataset_dir),),
        buckets=tuple(one.removeprefix("s3://") for one in task.dataset_prefixes or ()),
        endpoints=() if task.s3_endpoint is None else (task.s3_endpoint,),
        hub=False,
        urls=False,
    )


class SessionReporter(Protocol):
    """Where a session says what happens and hears what is wished."""

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        """Append an event."""

    def warn(self, reason: str, message: str) -> None:
        """Append a warning."""

    def beat(self) -> None:
        """Show that the worker lives."""

    def wish(self) -> Wish | None:
        """Return what the owner wants."""


class _StopAsked(Exception):
    """Ends preparations that there is nothing to keep of."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop: Stop = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    """What is trained on."""

    plans: Mapping[str, Plan]
    num_embeddings: int = 0
    num_encoded: int = 0


class Session:
    """Does one job; every process of a worker has one, and the main one tells and writes.

    Where two experts are trained side by side, the worker's session has the job's first expert and
    a mate, whose own session has the second, and tells and writes as far as that goes.
    """

    def __init__(
        self,
        task: WorkerTask,
        spec: JobSpec,
        folder: AttemptFolder,
        accelerator: Accelerator,
        reporter: SessionReporter,
        *,
        is_preempted: Callable[[], bool] = lambda: False,
        mate: Mate | None = None,
    ) -> None:
        """Set up.

        Args:
            task: What to do.
            spec: The task's, read.
            folder: Of the attempt.
            accelerator: Joins the processes of the worker.
            reporter: Hears what happens.
            is_preempted: Whether SIGTERM came.
            mate: Of the worker of a job whose experts are trained side by side; not started.

        Raises:
            SettingInvalid: A store cannot be opened.
        """
        self._task, self._spec, self._accelerator = task, spec, accelerator
        self._reporter, self._is_preempted, self._mate = reporter, is_preempted, mate
        self._checkpoints = Checkpoints(
            checkpoint_blobs(task, folder),
            spec=Digest.of_bytes(task.spec.encode()),
            keep=spec.checkpoints.keep,
            warn=reporter.warn,
        )
        self._home = Path(task.home).expanduser().absolute()
        self._registry = open_registry(task)

    def run(self) -> Outcome:
        """Do the job, or go on with it, and return how that ends.

        Raises:
            DiptychError: It cannot be done; what was reached is in the last checkpoint.
        """
        try:
            with self._cache() as cache:
                return self._run(cache)
        except _StopAsked as asked:
            return Outcome(ending=asked.stop)

    def _run(self, cache: EmbeddingCacheClient) -> Outcome:
        plans = expert_plans(self._spec)
        own = [(place, plan) for place, plan in enumerate(plans) if self._is_own(plan)]
        first = own[0][1].expert if len(own) < len(plans) else None
        early = self._train(own, self._checkpoints.latest(first), cache)
        if early is not None or self._task.expert is not None:
            return early or Outcome(ending="succeeded")
        return self._finish(plans)

    def _is_own(self, plan: ExpertPlan) -> bool:
        """Return whether this process trains an expert: all, or the mate's, or all but that."""
        if self._task.expert is not None:
            return plan.expert == self._task.expert
        return self._mate is None or plan.expert != _MATES

    def _train(
        self,
        own: Sequence[tuple[int, ExpertPlan]],
        resumed: Checkpoint | None,
        cache: EmbeddingCacheClient,
    ) -> Outcome | None:
        """Train this process's experts one after the other, and beside them the mate's.

        Returns:
            How the job ends before they are trained, None where they are.
        """
        dataset = self._dataset(cache)
        means = TrainingMeans(
            spec=self._spec,
            plans=dataset.plans,
            cache=cache,
            cache_address=self._task.cache_address,
            places=allowed_places(self._task),
            accelerator=self._accelerator,
            reporter=self._reporter,
            checkpoints=self._checkpoints,
            stop_asked=self._stop_asked,
        )
        with self._beside(dataset):
            for place, plan in own:
                if resumed is not None and _is_behind(resumed, place):
                    continue
                training = ExpertTraining(means, plan, place=place, load=self._load(plan))
                self._told_prepared(dataset, training)
                self._accelerator.wait_for_everyone()
                if stop := training.run(resumed):
                    return self._joined(stop)
                resumed = None
            return self._joined(None)

    def _beside(self, dataset: _Dataset) -> AbstractContextManager[object]:
        """Start the mate, if there is to be one; it does not outlive the block."""
        if self._mate is None:
            return nullcontext()
        return self._mate.start(
            replace(
                self._task,
                expert=_MATES,
                num_embeddings=dataset.num_embeddings,
                num_encoded=dataset.num_encoded,
            )
        )

    def _joined(self, stop: Stop | None) -> Outcome | None:
        """Return how the job ends after this process's part, the mate's included; None goes on."""
        early = None if stop is None else Outcome(ending=stop)
        if self._mate is None:
            return early
        if stop is not None:
            self._mate.end()
        found = self._mate.wait()
        is_mates = found.ending == "failed" or (early is None and found.ending != "succeeded")
        return found if is_mates else early

    def _dataset(self, cache: EmbeddingCacheClient) -> _Dataset:
        """Index what is trained on, and have the cache make what it has not."""
        expansion = Expansion(places=allowed_places(self._task), progress=self._go_on)
        index = expansion.index(self._spec.dataset)
        plans = make_plans(index, batch_size=self._spec.run.batch_size)
        check_images(self._spec, plans, expansion.findings)
        if self._task.expert is not None:  # the worker has told all of it, and had it encoded
            return _Dataset(
                plans=plans,
                num_embeddings=self._task.num_embeddings,
                num_encoded=self._task.num_encoded,
            )
        findings = chain(expansion.findings, *(plan.findings for plan in plans.values()))
        for remark in (*remarks(self._spec, None, plans), *left_out(findings)):
            self._reporter.warn(remark.reason, remark.message)
        if not self._accelerator.is_main_process:
            return _Dataset(plans=plans)
        return self._warmed(cache, plans)

    def _warmed(self, cache: EmbeddingCacheClient, plans: Mapping[str, Plan]) -> _Dataset:
        run = self._spec.run
        call = WarmCall(
            manifest=write_manifest(self._spec.dataset),
            batch_size=run.batch_size,
            num_epochs=run.num_epochs or 1,
        )
        try:
            found = cache.warm(call, progress=self._go_on, timeout_s=math.inf)
        except (DatasetInvalid, InvalidRequest) as error:
            message = (
                f"the cache does not read the dataset; embeddings are made while training: {error}"
            )
            self._reporter.warn("CACHE_NOT_WARMED", message)
            return _Dataset(plans=plans)
        if found.num_failed:
            items = ", ".join(list(found.failures)[:8])
            self._reporter.warn("NOT_ENCODED", f"{found.num_failed} were not encoded: {items}")
        return _Dataset(plans=plans, num_embeddings=found.num_total, num_encoded=found.num_encoded)

    def _told_prepared(self, dataset: _Dataset, training: ExpertTraining) -> None:
        told = {
            "expert": training.plan.expert,
            "num_images": sum(len(plan) for plan in dataset.plans.values()),
            "num_embeddings": dataset.num_embeddings,
            "num_encoded": dataset.num_encoded,
            "num_parameters": training.num_parameters,
            "num_steps": training.num_steps,
        }
        self._reporter.tell(EventKind.PREPARED, told)

    def _load(self, plan: ExpertPlan) -> Callable[..., TrainedExpert]:
        return partial(self._trainable, plan)

    def _trainable(self, plan: ExpertPlan, *, device: torch.device | str) -> TrainedExpert:
        trained = load_trainable(
            self._spec,
            plan,
            device=device,
            cache_dir=self._home / "models",
            registry=self._registry,
            tenant=self._task.tenant,
            options=LoadOptions(
                s3=S3Config(endpoint_url=self._task.s3_endpoint),
                experts_dir=self._home / "experts",
                tenant=self._task.tenant,
            ),
        )
        if reads_trained_texts(self._spec, plan.expert):
            trained.fix_texts(self._base_weights())
        return trained

    def _base_weights(self) -> Mapping[str, Tensor]:
        """Return what the job made of its base's expert, which is trained first."""
        checkpoint = self._checkpoints.latest("base")
        assert checkpoint is not None
        assert checkpoint.is_finished
        return _made(checkpoint)

    def _finish(self, plans: Sequence[ExpertPlan]) -> Outcome:
        """Export what was trained, from the checkpoints that hold it whole."""
        if not self._accelerator.is_main_process:
            return Outcome(ending="succeeded")
        trained, timesteps = [], {}
        for plan in plans:
            checkpoint = self._checkpoints.latest(plan.expert)
            assert checkpoint is not None
            assert checkpoint.is_finished
            expert = self._load(plan)(device="cpu")
            expert.load_state(_made(checkpoint))
            trained.append(expert)
            counts = TimestepCounts(plan.timesteps)
            counts.add_counts(checkpoint.tensors["counts"]["counts"])
            timesteps[plan.expert] = counts.summary()
            self._go_on()
        digests = publish(trained, self._spec, self._task, self._registry)
        result = {"name": self._spec.name, "digests": digests, "timesteps": timesteps}
        return Outcome(ending="succeeded", result=result)

    def _stop_asked(self) -> Stop | None:
        if self._is_preempted():
            return "preempted"
        if self._reporter.wish():
            return "stopped"
        mates = None if self._mate is None else self._mate.ended()
        return None if mates is None or mates.ending == "succeeded" else "preempted"

    def _go_on(self, *_: object) -> None:
        """Show life, and end preparations where that is asked for."""
        self._reporter.beat()
        if self._accelerator.num_processes == 1 and (stop := self._stop_asked()):
            raise _StopAsked(stop)

    def _cache(self) -> EmbeddingCacheClient:
        """Return a client of the cache, which answers."""
        task = self._task
        token = None
        if task.cache_token_file is not None:
            token = Path(task.cache_token_file).read_text(encoding="utf-8").strip()
        client = EmbeddingCacheClient(
            ClientConfig(
                channel=ChannelConfig(address=task.cache_address),
                token=token,
                tenant=None if task.tenant == DEFAULT_TENANT else task.tenant,
            )
        )
        try:
            self._wait_for(client)
        except BaseException:
            client.close()
            raise
        return client

    def _wait_for(self, cache: EmbeddingCacheClient) -> None:
        """Wait until the cache answers, a little at a time: what is wished is heeded meanwhile."""
        until = time.monotonic() + _CACHE_READY_S
        while True:
            self._go_on()
            try:
                return cache.wait_until_ready(timeout_s=_CACHE_LOOK_S)
            except Unavailable:
                if time.monotonic() >= until:
                    raise
                time.sleep(_CACHE_PAUSE_S)


def _is_behind(resumed: Checkpoint, place: int) -> bool:
    """Return whether the expert at ``place`` is trained already."""
    return place < resumed.place or (place == resumed.place and resumed.is_finished)


def _made(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return the weights that an expert ended with, averaged where the job says so."""
    return checkpoint.tensors.get(RESULT, checkpoint.tensors["weights"])
