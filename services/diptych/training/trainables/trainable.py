"""What the loop needs of what is trained, whatever the method."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from diptych.training.conditions import Conditions

__all__ = ["ParameterGroup", "Trainable"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """Weights that share a learning rate and a decay."""

    name: str
    """``unet``, ``text_encoder`` or ``text_encoder_2``."""
    parameters: Sequence[Tensor]
    """Float32 leaves, whatever the network computes in; at least one."""
    learning_rate: float | None = None
    """None is the optimizer's own, and so below."""
    weight_decay: float | None = None


class Trainable(Protocol):
    """Some weights of one expert, and what the expert predicts with them."""

    trains_text: bool
    """Whether conditions are texts, which the trained encoders read."""
    modules: nn.Module
    """What ``predict`` calls. The loop may put in its place what accelerate makes of it."""

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """Return all that changes, each weight once."""

    def predict(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Return the prediction [B, 4, h, w] float32 of one forward.

        Args:
            noisy: Noisy scaled latents [B, 4, h, w].
            t: Timesteps [B] int64.
            conditions: Embeddings, or texts where ``trains_text``.
        """

    def without_update(self) -> AbstractContextManager[None]:
        """Return a context in which the model is the one before training.

        Of an adapter that is the model without it, also if training goes on from one. Gradients
        cannot be taken inside.
        """

    def state(self) -> dict[str, Tensor]:
        """Return copies of the trained weights by name: float32, on the CPU, exact."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the trained weights to what ``state`` returned.

        Raises:
            CheckpointInvalid: Names or shapes are not those of what is trained.
        """
