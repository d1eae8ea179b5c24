"""The trained weights of one expert: their groups, their state, the model without them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from diptych.errors import CheckpointInvalid
from diptych.models.experts import OpenExpert
from diptych.training.conditions import Conditions
from diptych.training.experts import ExpertPlan
from diptych.training.spec import JobSpec
from diptych.training.trainables.low_rank import switched_off
from diptych.training.trainables.network import ExpertNetwork
from diptych.training.trainables.trainable import ParameterGroup
from diptych.training.trainables.whole_tensors import fill, whole

__all__ = ["TEXTS", "ExpertFacts", "TrainedExpert"]

TEXTS: Final = "texts."
"""How names of the text encoders' weights begin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertFacts:
    """What the rest of a job must know of an expert that is trained."""

    plan: ExpertPlan
    opened: OpenExpert
    fingerprint: str
    """Of the UNet's weights that training started from."""
    prediction_type: str
    """That is trained: the objective's, or else the checkpoint's."""
    zero_snr: bool


class TrainedExpert:
    """The weights of ``network`` that require a gradient; owned by one worker."""

    def __init__(self, network: ExpertNetwork, *, facts: ExpertFacts, spec: JobSpec) -> None:
        self.facts = facts
        self.network = network
        """The modules themselves, whatever ``modules`` became."""
        self.modules: nn.Module = network
        self.trains_text = network.texts is not None
        self._spec = spec
        self._names = [name for name, one in network.named_parameters() if one.requires_grad]

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """Return the weights as they are now; sharding a network replaces them."""
        optimizer, texts = self._spec.optimizer, self._spec.text_encoders
        found: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._trained().items():
            group = name.removeprefix(TEXTS).split(".", maxsplit=1)[0]
            found.setdefault(group, []).append(parameter)
        is_text = {name: name != "unet" for name in found}
        decay = optimizer.weight_decay
        text_decay = decay if texts.weight_decay is None else texts.weight_decay
        return tuple(
            ParameterGroup(
                name=name,
                parameters=parameters,
                learning_rate=(texts.learning_rate if is_text[name] else None)
                or optimizer.learning_rate,
                weight_decay=text_decay if is_text[name] else decay,
            )
            for name, parameters in found.items()
        )

    def predict(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Return the prediction [B, 4, h, w] float32 of one forward."""
        prediction: Tensor = self.modules(noisy, t, conditions)
        return prediction

    @contextmanager
    def without_update(self) -> Iterator[None]:
        """Let the model be the one before training; of a full fine-tune there is none."""
        assert self._spec.method != "full"
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(switched_off(self.network))
            yield

    def state(self) -> dict[str, Tensor]:
        """Return copies of the trained weights by name: float32, on the CPU, exact."""
        return {name: whole(parameter) for name, parameter in self._trained().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the trained weights to what ``state`` returned.

        Raises:
            CheckpointInvalid: Names or shapes are not those of what is trained.
        """
        trained = self._trained()
        shapes = {name: tuple(one.shape) for name, one in trained.items()}
        found = {name: tuple(one.shape) for name, one in tensors.items()}
        unlike = sorted(
            name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)
        )
        if unlike:
            name = unlike[0]
            problem = f"{name} is {found.get(name)}, expected {shapes.get(name)}"
            raise CheckpointInvalid("training state", problem)
        for name, parameter in trained.items():
            fill(parameter, tensors[name])

    def fix_texts(self, updates: Mapping[str, Tensor]) -> None:
        """Set the encoders' updates to what another expert's ``state`` has; train them no more.

        Raises:
            CheckpointInvalid: They are not for encoders that this expert has.
        """
        own = {name: one for name, one in self._trained().items() if name.startswith(TEXTS)}
        for name, parameter in own.items():
            if name not in updates or updates[name].shape != parameter.shape:
                raise CheckpointInvalid("training state", f"{name} is not as the other expert's")
            fill(parameter, updates[name])
            parameter.requires_grad_(False)
        self._names = [name for name in self._names if name not in own]

    def _trained(self) -> dict[str, nn.Parameter]:
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self._names}
