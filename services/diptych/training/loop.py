"""The training loop of one expert: the order of a step is ``ExpertLoop.take``, in one place."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from diptych.errors import NonFiniteLoss, Unavailable
from diptych.training.checkpoints import Checkpoint, Written
from diptych.training.events import EventKind
from diptych.training.expert_state import ExpertState
from diptych.training.feeding import FedBatch, FedStep
from diptych.training.keyed_draws import KeyedDraws
from diptych.training.objective import Objective
from diptych.training.precision_watch import PrecisionWatch

__all__ = ["ExpertLoop", "LoopConfig", "Stop", "TakenStep"]

Stop = Literal["stopped", "preempted"]
"""Why a loop ends before its last step: a wish, or SIGTERM."""


class Teller(Protocol):
    """Where the loop says what happens; of several processes one has one that speaks."""

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        """Append an event."""

    def beat(self) -> None:
        """Show that the worker lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How an expert is trained."""

    draws: KeyedDraws
    max_grad_norm: float = 1.0
    """0 clips nothing."""
    regularisation_weight: float = 1.0
    checkpoint_every: int = 500
    """Steps."""
    progress_s: float = 1.0
    """Between two events of progress, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenStep:
    """What came of a step, over all processes."""

    loss: float
    """Mean over its samples."""
    grad_norm: float
    """Before clipping."""
    num_samples: int
    learning_rates: Mapping[str, float]
    """By group, those of this step."""
    lost_share: float | None
    """Of watched weights, those that their update did not change; None when not looked at."""
    stop: Stop | None


class ExpertLoop:
    """Trains one expert; owns its state from here on."""

    def __init__(
        self,
        state: ExpertState,
        objective: Objective,
        accelerator: Accelerator,
        config: LoopConfig,
        *,
        write: Callable[[Checkpoint], Written],
        teller: Teller,
        stop_asked: Callable[[], Stop | None] = lambda: None,
    ) -> None:
        """Set up.

        Args:
            state: Where it begins.
            objective: What the expert learns.
            accelerator: Joins the processes that train.
            config: How.
            write: Keeps a checkpoint; called in the main process.
            teller: Hears what happens.
            stop_asked: Whether to end after the step, and why; asked at every step.
        """
        self.state, self._objective, self._config = state, objective, config
        self._accelerator, self._write, self._teller = accelerator, write, teller
        self._stop_asked = stop_asked
        self._watch = PrecisionWatch(state.parameters)
        self._num_written: int | None = None
        self._progress = _Progress()

    def run(self, steps: Iterator[FedStep]) -> Stop | None:
        """Train until the last step, or until asked to stop; leaves a checkpoint in both cases.

        Raises:
            NonFiniteLoss: A loss or gradient is no number; the last checkpoint is from before.
            TimestepOutOfRange: A timestep is not this expert's.
            DiptychError: What the feeder raised, or the checkpoints' store.
        """
        state, begun = self.state, self.state.step
        while state.step < state.num_steps:
            try:
                step = next(steps)
            except Unavailable:
                # What feeds it gives up as soon as there is a wish. Several processes can agree on
                # a stop only after a step, so that there the last checkpoint is all that is left.
                stop = self._stop_asked() if self._accelerator.num_processes == 1 else None
                if stop is None:
                    raise
                if state.step > begun:
                    self.keep(is_due=False)
                return stop
            taken = self.take(step)
            self._teller.beat()
            self._tell(taken)
            is_last = state.step >= state.num_steps
            is_due = is_last or state.step % self._config.checkpoint_every == 0
            if is_due or taken.stop:
                self.keep(is_due=is_due)
            if taken.stop and not is_last:
                return taken.stop
        self.keep()
        return None

    def take(self, step: FedStep) -> TakenStep:
        """Take one optimizer step: every sample of it counts alike, however they are batched.

        A step of several batches, on one process or on many, is up to rounding the step of one
        batch that holds them all. Weights and optimizer are as before if this raises.
        """
        state, accelerator, network = self.state, self._accelerator, self.state.trainable.modules
        num_samples = self._total(sum(len(batch) for batch in step.batches))
        state.optimizer.zero_grad(set_to_none=True)
        own_loss = torch.zeros((), device=accelerator.device)
        for place, batch in enumerate(step.batches):
            is_last = place == len(step.batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(network):
                loss = self._losses(batch.to(accelerator.device)).sum() / num_samples
                # Gradients are averaged over processes; what is wanted is their sum.
                state.scaler.scale(loss * accelerator.num_processes).backward()
            own_loss += loss.detach()
        mean_loss, stop = self._agreed(own_loss)
        self._check(mean_loss, "loss", step)
        state.scaler.unscale_(state.optimizer)
        limit = self._config.max_grad_norm or math.inf
        grad_norm = float(accelerator.clip_grad_norm_(state.parameters, limit))
        if not state.scaler.is_enabled():  # it passes over steps with gradients beyond float16
            self._check(grad_norm, "gradient", step)
        self._watch.before(state.step + 1)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        learning_rates = dict(state.learning_rates)
        state.lr_schedule.step()
        state.step, state.position = state.step + 1, step.after
        if state.ema is not None:
            state.ema.update(state.step)
        self._progress.note(step.epoch, num_samples)
        return TakenStep(
            loss=mean_loss,
            grad_norm=grad_norm,
            num_samples=num_samples,
            learning_rates=learning_rates,
            lost_share=self._watch.lost_share(),
            stop=stop,
        )

    def keep(self, *, is_due: bool = True) -> None:
        """Write a checkpoint of this step, unless it is there; every process must call it.

        Args:
            is_due: Whether it would be written of a job that nothing stops.
        """
        if self._num_written == self.state.step:
            return
        checkpoint = self.state.checkpoint()
        if self._accelerator.is_main_process:
            written = self._write(checkpoint)
            told = {
                "expert": checkpoint.expert,
                "step": checkpoint.step,
                "digest": str(written.digest),
                "size_bytes": written.size_bytes,
                "is_due": is_due,
            }
            self._teller.tell(EventKind.CHECKPOINT, told)
        self._accelerator.wait_for_everyone()
        self._num_written = self.state.step

    def _losses(self, batch: FedBatch) -> Tensor:
        """Return each sample's loss [B], float32; what is drawn follows from the batch's number."""
        objective, draws, trainable = self._objective, self._config.draws, self.state.trainable
        latents, conditions = batch.latents, batch.conditions
        drawn = objective.draw_timesteps(len(batch), draws.generator("timesteps", batch.number))
        self.state.counts.add(drawn)
        t = drawn.to(latents.device)
        noise = objective.draw_noise(latents, draws.generator("noise", batch.number))
        noisy = objective.noisy(latents, noise, t)
        target = None
        if batch.is_regularisation:
            with trainable.without_update():
                target = trainable.predict(noisy, t, conditions)
        draws.seed_modules(batch.number, latents.device)
        prediction = trainable.predict(noisy, t, conditions)
        if target is None:
            return objective.losses(prediction, latents=latents, noise=noise, t=t, mask=batch.mask)
        losses = objective.losses_towards(prediction, target, t=t, mask=batch.mask)
        return losses * self._config.regularisation_weight

    def _total(self, count: int) -> int:
        """Return the sum of a count over all processes."""
        if self._accelerator.num_processes == 1:
            return count
        own = torch.tensor(count, device=self._accelerator.device)
        return int(self._accelerator.reduce(own, "sum"))

    def _agreed(self, own_loss: Tensor) -> tuple[float, Stop | None]:
        """Return the step's loss and whether to stop after it, the same in all processes."""
        asked = self._stop_asked()
        flags = torch.tensor([asked == "stopped", asked == "preempted"], device=own_loss.device).to(
            own_loss.dtype
        )
        total = self._accelerator.reduce(torch.cat([own_loss[None], flags]), "sum")
        loss, stopped, preempted = total.tolist()
        return loss, "preempted" if preempted else "stopped" if stopped else None

    def _check(self, number: float, name: str, step: FedStep) -> None:
        if not math.isfinite(number):
            images = ", ".join(str(image) for batch in step.batches for image in batch.images)
            raise NonFiniteLoss(step=self.state.step + 1, images=images, of=name)

    def _tell(self, taken: TakenStep) -> None:
        state = self.state
        if taken.lost_share is not None and PrecisionWatch.is_too_many(taken.lost_share):
            message = f"{taken.lost_share:.0%} of the updates of step {state.step} are too small"
            message += " to change float32 weights; the learning rate is too low"
            told = {"reason": "UPDATE_BELOW_PRECISION", "message": message}
            self._teller.tell(EventKind.WARNING, told)
        is_edge = state.step in {1, state.num_steps}
        if not (is_edge or taken.stop or self._progress.elapsed_s >= self._config.progress_s):
            return
        epoch, images_per_s = self._progress.taken()
        told_progress = {
            "expert": state.plan.expert,
            "step": state.step,
            "num_steps": state.num_steps,
            "epoch": epoch,
            "loss": taken.loss,
            "lr": taken.learning_rates,
            "grad_norm": taken.grad_norm if math.isfinite(taken.grad_norm) else None,
            "images_per_s": images_per_s,
            "memory_bytes": _peak_memory(self._accelerator.device),
        }
        self._teller.tell(EventKind.PROGRESS, told_progress)


class _Progress:
    """How many samples since when; owned by the loop."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._num_samples = self._epoch = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._since

    def note(self, epoch: int, num_samples: int) -> None:
        self._epoch, self._num_samples = epoch, self._num_samples + num_samples

    def taken(self) -> tuple[int, float]:
        """Return the epoch and the images per second since this was asked last."""
        rate = self._num_samples / max(self.elapsed_s, 1e-9)
        self._since, self._num_samples = time.monotonic(), 0
        return self._epoch, rate


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use on an accelerator; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
