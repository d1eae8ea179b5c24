"""What a zip learns from: each source's own prompt and pictures, at timesteps all over.

What a source should still do is seen at latents it makes itself: pictures it draws in a few
steps, then noised. So no data is needed, and networks are compared where they will be used;
noise alone, at a timestep that does not mean noise, would ask them about inputs they never see.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.merge.blending import MERGED
from diptych.diffusion.guidance import combine
from diptych.diffusion.noise import RowNoise
from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.conditions import Conditions
from diptych.inference.trajectory import Expert
from diptych.inference.zip_networks import Network

__all__ = ["Place", "Source", "Training", "draw_pictures", "interval_places"]

NUM_PICTURES: Final = 2
"""Per source."""
NUM_DRAWING_STEPS: Final = 8
NUM_PROBES: Final = 4
"""Timesteps at which losses are compared before and after."""
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, less whole numbers, fall evenly into any interval however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A timestep, and the expert it belongs to."""

    expert: Expert
    timestep: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One of the adapters that are zipped, as the experts meet it."""

    told: Mapping[Expert, Conditions]
    """Its prompt and none, by its own text encoders' weights; 2 rows."""
    told_merged: Mapping[Expert, Conditions]
    """The same by the merge's."""
    pictures: Tensor
    """Latents [P, C, h, w] float32 that it draws from its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sample:
    """The same timestep of every source."""

    place: Place
    x: Tensor
    """[sources, C, h, w]"""
    wanted: Tensor
    """What each source's own network predicts of its row."""


class Training:
    """The loss of a zip, at the next timestep or at those it is judged by.

    Errors are relative: the squared difference between merged and source over what the source
    changes in the base network at all, so that strong and faint adapters count alike.
    """

    def __init__(
        self,
        networks: Mapping[Expert, Network],
        sources: Sequence[Source],
        places: Sequence[Place],
        noise: RowNoise,
    ) -> None:
        """Measure what each source changes.

        Args:
            networks: Showing sources by their position in ``sources``.
            sources: Two or more.
            places: Timesteps to train at, any number.
            noise: All of it is drawn from here.

        Raises:
            InvalidRequest: A source changes nothing at its prompt.
        """
        self._networks, self._sources, self._noise = networks, sources, noise
        self._places = places
        probes = [places[(2 * k + 1) * len(places) // (2 * NUM_PROBES)] for k in range(NUM_PROBES)]
        self._probes = [self._sample(place, index) for index, place in enumerate(probes)]
        changes = torch.stack([self._changes(sample) for sample in self._probes])
        self._scale = changes.mean(dim=0)
        for index, value in enumerate(self._scale.tolist()):
            if not value > 0:
                problem = "changes nothing of what the network predicts at its prompt"
                violation = FieldViolation(field=f"adapters[{index}]", description=problem)
                raise InvalidRequest([violation])

    def loss_at(self, step: int) -> Tensor:
        """Return the sum of the sources' relative errors at a step's timestep."""
        position = int((0.5 + step * _GOLDEN) % 1 * len(self._places))
        return self._errors(self._sample(self._places[position], step)).sum()

    @torch.no_grad()
    def judge(self) -> tuple[float, ...]:
        """Return each source's relative error, over timesteps that are never trained on twice."""
        errors = torch.stack([self._errors(sample) for sample in self._probes])
        return tuple(errors.mean(dim=0).tolist())

    @torch.no_grad()
    def _sample(self, place: Place, number: int) -> _Sample:
        network = self._networks[place.expert]
        signal, sigma = _levels(network.expert.schedule, place.timestep)
        rows: list[Tensor] = []
        wanted: list[Tensor] = []
        for position, source in enumerate(self._sources):
            picture = source.pictures[number % len(source.pictures)][None]
            noise = self._noise.draw(tuple(picture.shape)).to(picture.device)
            rows.append(signal * picture + sigma * noise)
            told = _row(source.told[place.expert], 0)
            wanted.append(network.predict(rows[-1], place.timestep, told, shows=position))
        return _Sample(place=place, x=torch.cat(rows), wanted=torch.cat(wanted))

    def _errors(self, sample: _Sample) -> Tensor:
        """Return the relative error of every source [sources]."""
        place = sample.place
        told = _joined([_row(one.told_merged[place.expert], 0) for one in self._sources])
        network = self._networks[place.expert]
        found = network.predict(sample.x, place.timestep, told, shows=MERGED)
        return (found - sample.wanted).square().mean(dim=(1, 2, 3)) / self._scale

    @torch.no_grad()
    def _changes(self, sample: _Sample) -> Tensor:
        """Return the mean square of what every source changes in the prediction [sources]."""
        place = sample.place
        network = self._networks[place.expert]
        # One by one, as the sources were: equal rows of unlike batches differ by rounding.
        plain = [
            network.predict(x[None], place.timestep, _row(one.told[place.expert], 0), shows=None)
            for x, one in zip(sample.x, self._sources, strict=True)
        ]
        return (torch.cat(plain) - sample.wanted).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def draw_pictures(
    networks: Mapping[Expert, Network],
    told: Mapping[Expert, Conditions],
    shape: tuple[int, int, int],
    noise: RowNoise,
    *,
    shows: int,
    cut: int,
    go_on: Callable[[], None],
) -> Tensor:
    """Draw a source's pictures by DDIM (Song et al. 2021, eq. 12 with sigma 0): [P, C, h, w].

    Args:
        networks: One, or both, which then share the schedule.
        told: The prompt and none.
        shape: Of the latents of one picture.
        noise: Where they begin.
        shows: The source's position.
        cut: The first timestep of the base expert where there are both.
        go_on: Called between steps; what it raises ends the drawing.
    """
    first = next(iter(networks.values())).expert
    schedule = first.schedule
    x = noise.draw((NUM_PICTURES, *shape)).to(first.unet.device)
    steps = [
        schedule.num_train_timesteps * (NUM_DRAWING_STEPS - k) // NUM_DRAWING_STEPS - 1
        for k in range(NUM_DRAWING_STEPS)
    ]
    for timestep, following in zip(steps, [*steps[1:], None], strict=True):
        go_on()
        expert = _owner(networks, timestep, cut)
        network = networks[expert]
        both = _joined([_row(told[expert], row) for row in (0, 1) for _ in range(NUM_PICTURES)])
        out = network.predict(torch.cat([x, x]), timestep, both, shows=shows)
        scale = torch.full((NUM_PICTURES,), network.expert.family.default_guidance_scale)
        guided = combine(
            out[:NUM_PICTURES], out[NUM_PICTURES:], scale, torch.zeros_like(scale), scale > 1
        )
        signal, sigma = _levels(schedule, timestep)
        denoised, eps = _split(schedule.prediction_type, x, guided, signal, sigma)
        after = (1.0, 0.0) if following is None else _levels(schedule, following)
        x = after[0] * denoised + after[1] * eps
    return x


def interval_places(
    networks: Mapping[Expert, Network], *, cut: int, within: tuple[int, int] | None
) -> list[Place]:
    """Return every timestep of an expert that has a blend, ascending.

    Args:
        networks: One, or both.
        cut: The first timestep of the base expert where there are both.
        within: First and last timestep that the adapters were trained on; ignored where nothing
            of an expert's interval is among them.
    """
    last = next(iter(networks.values())).expert.schedule.num_train_timesteps
    places = [
        Place(expert=_owner(networks, timestep, cut), timestep=timestep) for timestep in range(last)
    ]
    places = [place for place in places if networks[place.expert].blend is not None]
    low, high = within or (0, last)
    return [place for place in places if low <= place.timestep <= high] or places


def _owner(networks: Mapping[Expert, Network], timestep: int, cut: int) -> Expert:
    if len(networks) == 1:
        return next(iter(networks))
    return Expert.BASE if timestep >= cut else Expert.REFINER


def _levels(schedule: NoiseSchedule, timestep: int) -> tuple[float, float]:
    """Return signal and noise at a timestep, of unit variance together."""
    share = float(schedule.alphas_cumprod[timestep])
    return share**0.5, (1 - share) ** 0.5


def _split(
    prediction_type: str, x: Tensor, out: Tensor, signal: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return the estimates of x0 and of the noise."""
    if prediction_type == "v_prediction":
        return signal * x - sigma * out, sigma * x + signal * out
    if prediction_type == "epsilon":
        return (x - sigma * out) / max(signal, 1e-4), out
    return out, (x - signal * out) / max(sigma, 1e-4)


def _row(told: Conditions, row: int) -> Conditions:
    rows = slice(row, row + 1)
    return Conditions(
        hidden=told.hidden[rows], pooled=told.pooled[rows], time_ids=told.time_ids[rows]
    )


def _joined(rows: Sequence[Conditions]) -> Conditions:
    return Conditions(
        hidden=torch.cat([row.hidden for row in rows]),
        pooled=torch.cat([row.pooled for row in rows]),
        time_ids=torch.cat([row.time_ids for row in rows]),
    )
