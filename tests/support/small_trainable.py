"""A network so small that a test can train it for many steps, with everything that one may have."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from diptych.training.conditions import Conditions
from diptych.training.trainables.trainable import ParameterGroup
from diptych.training.trainables.whole_tensors import fill, whole

__all__ = ["SmallTrainable"]


class _SmallNet(nn.Module):
    """Two convolutions with a dropout between them, told of time and text."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.second = nn.Conv2d(width, 4, 3, padding=1)
        self.told = nn.Linear(1 + 5, width)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))

    @override
    def forward(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        assert conditions.pooled is not None
        told = torch.cat([t[:, None].float() / 1000, conditions.pooled], dim=1)
        hidden = self.first(noisy) + self.told(told)[:, :, None, None]
        found: Tensor = self.second(self.dropout(torch.nn.functional.silu(hidden)))
        return found


class SmallTrainable:
    """As ``TrainedExpert``, without a model."""

    trains_text = False

    def __init__(
        self, *, width: int = 8, dropout: float = 0.1, learning_rate: float | None = None
    ) -> None:
        self.network = _SmallNet(width, dropout)
        self.modules: nn.Module = self.network
        self._before = self.state()
        self._learning_rate = learning_rate

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        first = [*self.network.first.parameters(), *self.network.told.parameters()]
        second = list(self.network.second.parameters())
        return tuple(
            ParameterGroup(
                name=name,
                parameters=parameters,
                learning_rate=self._learning_rate,
                weight_decay=None,
            )
            for name, parameters in (("unet", first), ("text_encoder", second))
        )

    def predict(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        found: Tensor = self.modules(noisy, t, conditions)
        return found

    @contextmanager
    def without_update(self) -> Iterator[None]:
        trained = self.state()
        with torch.no_grad():
            self.load_state(self._before)
            self.network.eval()
            yield
            self.network.train()
            self.load_state(trained)

    def state(self) -> dict[str, Tensor]:
        return {name: whole(one) for name, one in self.network.named_parameters()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            fill(parameter, tensors[name])
