"""What this server hosts, as plain values: what requests are checked and filled in against."""

from dataclasses import dataclass

from diptych.errors import ExpertMissing
from diptych.inference.limits import Limits
from diptych.inference.trajectory import Expert

__all__ = ["Hosted", "HostedExpert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedExpert:
    """One expert that requests can use, here or at a peer."""

    expert: Expert
    family: str
    model: str
    """Where the checkpoint came from, as the server was given it."""
    prediction_type: str
    """epsilon, v_prediction, sample or edm."""
    guidance_scale: float
    """What a stage that names none gets."""
    takes_aesthetic_score: bool = False
    latent_channels: int = 4
    remote: bool = False
    """Whether a peer hosts it and latents are handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """The experts of this server, its names, its bounds, and what absent fields become."""

    version: str
    base: HostedExpert | None
    refiner: HostedExpert | None
    refinable_families: frozenset[str]
    """Families whose latents the refiner can go on with, as they share its VAE."""
    solvers: tuple[str, ...]
    spacings: tuple[str, ...]
    sigma_schedules: tuple[str, ...]
    limits: Limits
    width: int
    height: int
    num_steps: int
    solver: str
    boundary: float = 0.65
    """Where the base ends when both experts run and the request does not say."""

    def need_base(self) -> HostedExpert:
        """Return the base expert.

        Raises:
            ExpertMissing: There is none.
        """
        if self.base is None:
            raise ExpertMissing(Expert.BASE)
        return self.base

    def need_refiner(self, *, local: bool = False) -> HostedExpert:
        """Return the refiner; with ``local`` one at a peer does not count.

        Raises:
            ExpertMissing: There is none.
        """
        if self.refiner is None or (local and self.refiner.remote):
            raise ExpertMissing(Expert.REFINER)
        return self.refiner
