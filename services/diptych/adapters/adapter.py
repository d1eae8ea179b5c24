"""An adapter as one immutable value: low-rank updates, learned tokens, and what they are for.

Targets are named as diffusers and transformers name their modules, whatever the file said. Alpha
is always the one whose ratio to the rank is the update's scale: rank-stabilised files
(Kalajdzievski 2023) are brought to that when they are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from torch import Tensor

from diptych.adapters.naming import Component, Stage, check_name

__all__ = [
    "MAX_RANK",
    "Adapter",
    "Component",
    "LearnedToken",
    "LowRank",
    "MadeFor",
    "Magnitude",
    "Stage",
    "Target",
    "check_name",
]

MAX_RANK: Final = 128
"""Largest rank of one target that is read or served."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Target:
    """One module of one component, such as ``down_blocks.1.attentions.0.proj_in``."""

    component: Component
    module: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Magnitude:
    """DoRA's learned norms (Liu et al. 2024, eq. 5), over one side of a weight [out, in, ...].

    PEFT and diffusers keep one norm per output (``lora_magnitude_vector``); LyCORIS, OneTrainer
    and ComfyUI one per input (``dora_scale`` [1, in]) unless it is shaped [out, 1].
    """

    norms: Tensor
    """[out] or [in]."""
    per_input: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRank:
    """The update of one weight: alpha / rank * up @ down, and DoRA's magnitude if it has one."""

    down: Tensor
    """``lora_A``: [r, in] of a linear layer, [r, in, kh, kw] of a convolution."""
    up: Tensor
    """``lora_B``: [out, r]; a convolution's last two axes of size 1 are dropped."""
    alpha: float
    magnitude: Magnitude | None = None

    @property
    def rank(self) -> int:
        """Return r."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """Return what the product is multiplied by, alpha / r."""
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Return the shape of the weight it updates: [out, in] or [out, in, kh, kw]."""
        return (self.up.shape[0], *self.down.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnedToken:
    """A token learned by textual inversion: one or more vectors per text encoder."""

    vectors: Mapping[Component, Tensor]
    """[n, D] by text encoder, the same n in all; encoders that learned nothing are absent."""

    @property
    def num_vectors(self) -> int:
        """Return how many places of a prompt it takes."""
        return len(next(iter(self.vectors.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFor:
    """What an adapter was made for; None where its file did not say."""

    family: str | None = None
    base_fingerprint: str | None = None
    """Fingerprint of the UNet weights it was trained on."""
    stage: Stage = Stage.BASE
    prediction_type: str | None = None
    zero_snr: bool | None = None
    timestep_range: tuple[int, int] | None = None
    """First and last timestep it was trained on, both included."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """Everything one adapter holds; named by the digest of its bundle."""

    targets: Mapping[Target, LowRank] = field(default_factory=lambda: MappingProxyType({}))
    tokens: Mapping[str, LearnedToken] = field(default_factory=lambda: MappingProxyType({}))
    """By the text that stands for it in a prompt, such as ``<s0>``."""
    made_for: MadeFor = field(default_factory=MadeFor)
    trigger_words: tuple[str, ...] = ()
    """Ordinary words that call it up, to show to users."""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What the file it came from said beyond this (``ss_*``, ``modelspec.*``), kept as it was."""

    @property
    def max_rank(self) -> int:
        """Return the largest rank of its targets, 0 without any."""
        return max((low_rank.rank for low_rank in self.targets.values()), default=0)

    def components(self) -> frozenset[Component]:
        """Return the components that it changes or gives tokens to."""
        of_tokens = {part for token in self.tokens.values() for part in token.vectors}
        return frozenset({target.component for target in self.targets} | of_tokens)
