"""The device's side of a tick: one UNet forward over unlike rows, then each row's own step."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter
from diptych.diffusion.guidance import combine
from diptych.diffusion.noise import RowNoise
from diptych.diffusion.ragged import advance, estimate_denoised
from diptych.diffusion.symbols import NUM_STATES
from diptych.errors import DiptychError, OutOfDeviceMemory
from diptych.inference.adapter_units import Unit
from diptych.inference.attached import AttachedAdapters
from diptych.inference.conditions import (
    Conditions,
    RequestConditions,
    encode_requests,
    gather_conditions,
)
from diptych.inference.forward import Forward, batch_sizes
from diptych.inference.graphs import Graphs, Predict
from diptych.inference.pictures import read_picture
from diptych.inference.ports import (
    Conditioning,
    Finished,
    Measurement,
    Placement,
    Prepared,
    Row,
)
from diptych.inference.prompt_cache import TenantPrompts
from diptych.inference.route import Route
from diptych.inference.routing import (
    ACTIVE,
    C_IN,
    DENOISED,
    MATRIX,
    RESCALE,
    SCALE,
    TIMESTEP,
    make_route,
)
from diptych.inference.slots import Slot, gather_noise, gather_state
from diptych.inference.trajectory import (
    AdapterUse,
    Expert,
    ImageInput,
    ImageRequest,
    LatentsInput,
    StageSettings,
)
from diptych.models.autoencoder import pixels_from_images
from diptych.models.experts import Experts

__all__ = ["DeviceExecutor", "ExecutorConfig"]

_REMEMBERED_BATCHES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """How ticks are computed."""

    max_rows: int = 32
    """UNet rows of the largest tick."""
    adapter_lines: int = 512
    """Sum of the ranks of the adapters that are on the device at the same time."""
    record: bool | None = None
    """Whether graphs of UNets are recorded and replayed; None is on accelerators only."""


class DeviceExecutor:
    """Owns the state of running images on one device; implements ``ports.Executor``.

    Everything but ``route`` and ``bind`` is called from the engine's thread alone.
    """

    def __init__(
        self,
        experts: Experts,
        *,
        config: ExecutorConfig | None = None,
        prompts: TenantPrompts | None = None,
    ) -> None:
        """Take ``experts`` over; embeddings of texts are looked for in ``prompts`` first."""
        config = config or ExecutorConfig()
        self._prompts = prompts
        self._experts = {Expert(expert.name): expert for expert in experts.hosted}
        self._schedules = {name: expert.schedule for name, expert in self._experts.items()}
        first = experts.hosted[0]
        self._vae = first.vae
        self._device = first.unet.device
        records = self._device.type != "cpu" if config.record is None else config.record
        self._graphs: list[Graphs] = []
        self._adapters = AttachedAdapters(self._experts, num_lines=config.adapter_lines)
        self._forwards = {
            name: Forward(
                expert.unet,
                self._adapters.bank(name),
                recorder=self._record if records else None,
                sizes=batch_sizes(config.max_rows),
            )
            for name, expert in self._experts.items()
        }
        self._last_tick: torch.cuda.Event | None = None
        self._slots: dict[int, Slot] = {}
        self._batches: OrderedDict[tuple[object, ...], Conditions] = OrderedDict()

    def route(self, request: ImageRequest) -> Route:
        """Check ``request`` and return its route."""
        return make_route(request, self._schedules)

    @property
    def num_graphs(self) -> int:
        """Return how many graphs were recorded; after ``warm_up`` it stays as it is."""
        return sum(map(len, self._graphs))

    def warm_up(self) -> Sequence[Measurement]:
        """Run each expert's UNet at its family's size, recording it on an accelerator."""
        return [sample for expert in self._experts for sample in self._warm_expert(expert)]

    def encode(self, requests: Sequence[ImageRequest]) -> Sequence[Conditioning | DiptychError]:
        """Return the embeddings of each request, or why it has none."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault("" if self._prompts is None else request.tenant, []).append(index)
        found: dict[int, Conditioning | DiptychError] = {}
        for tenant, group in groups.items():
            prompts = None if self._prompts is None else self._prompts.of(tenant)
            own = [requests[index] for index in group]
            encoded = encode_requests(own, self._experts, self._adapters, prompts)
            found |= zip(group, encoded, strict=True)
        return [found[index] for index in range(len(requests))]

    def bind(self, uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> Prepared:
        """Return the adapters of one unit ready for ``attach``; from any thread."""
        return self._adapters.bind(uses, adapters)

    def attach(self, unit: Unit, prepared: Prepared) -> None:
        """Put a unit on the device."""
        self._adapters.attach(unit, prepared)

    def detach(self, unit: Unit) -> None:
        """Take a unit that nothing runs with off the device."""
        for forward in self._forwards.values():
            forward.forget_adapters()
        self._adapters.detach(unit)

    @torch.inference_mode()
    def place(self, placement: Placement) -> None:
        """Fill a slot with an image's first latents and zero solver memory."""
        assert isinstance(placement.conditioning, RequestConditions)
        noise = RowNoise(placement.request.seed + placement.index)
        latents = self._first_latents(placement, noise).to(self._device)
        state = torch.zeros(1, NUM_STATES, *latents.shape, device=self._device)
        state[0, 0] = latents
        self._slots[placement.slot] = Slot(
            route=placement.route,
            conditions=placement.conditioning.by_expert,
            adapters={
                expert: self._adapters.unet_uses(placement.request, expert)
                for expert in placement.conditioning.by_expert
            },
            noise=noise,
            batch=state,
        )

    @torch.inference_mode()
    def run(self, expert: Expert, rows: Sequence[Row]) -> Sequence[object | None]:
        """Advance every row by one evaluation, or none of them."""
        slots = [self._slots[row.slot] for row in rows]
        positions = [row.position for row in rows]
        try:
            state = gather_state(slots)
            lines = [s.route.coefficients[at] for s, at in zip(slots, positions, strict=True)]
            table = torch.from_numpy(np.stack(lines)).to(self._device, non_blocking=True)
            guided = [row for row, line in enumerate(lines) if line[ACTIVE]]
            output = self._predict(expert, slots, state=state[:, 0], table=table, guided=guided)
            noise = gather_noise(slots, positions)
            batch = advance(state, output, noise, table[:, MATRIX].reshape(-1, 4, 6))
            denoised = self._denoised(rows, state, output, table)
        except torch.OutOfMemoryError as error:
            height, width = (8 * side for side in slots[0].latents.shape[-2:])
            raise OutOfDeviceMemory(width=width, height=height) from error
        for index, slot in enumerate(slots):
            slot.commit(batch, index)
        self._pace()
        return denoised

    def take(self, slot: int) -> Finished:
        """Empty ``slot`` and return its latents, [C, h, w] float32."""
        left = self._slots.pop(slot)
        return Finished(latents=left.latents.clone(), draws=left.noise.draws)

    def release(self, slot: int) -> None:
        """Empty ``slot``; an empty one is ignored."""
        self._slots.pop(slot, None)

    def _record(self, predict: Predict) -> Predict:
        """Return ``predict`` recorded; all graphs share their memory, as one runs at a time."""
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        self._graphs.append(Graphs(predict, self._pool))
        return self._graphs[-1]

    def _warm_expert(self, expert: Expert) -> list[Measurement]:
        """Warm one UNet up; the largest batch comes first."""
        size = self._experts[expert].family.default_size
        stage = StageSettings(prompt="", guidance_scale=1.0)
        request = ImageRequest(
            request_id="warm-up",
            width=size,
            height=size,
            seed=0,
            base=stage if expert is Expert.BASE else None,
            refiner=stage if expert is Expert.REFINER else None,
        )
        (conditions,) = encode_requests([request], self._experts)
        assert isinstance(conditions, RequestConditions)
        edge = size // self._vae.pixels_per_latent
        timings = self._forwards[expert].warm_up(edge, edge, conditions.by_expert[expert])
        return [
            Measurement(expert=expert, num_pixels=size * size, num_rows=rows, seconds=seconds)
            for rows, seconds in sorted(timings.items(), reverse=True)
        ]

    def _pace(self) -> None:
        """Stay one tick ahead of an accelerator: its queue never runs dry, cancels stay quick."""
        if self._device.type != "cuda":
            return
        previous, self._last_tick = self._last_tick, torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._last_tick.record()
        if previous is not None:
            previous.synchronize()

    def _predict(
        self,
        expert: Expert,
        slots: Sequence[Slot],
        *,
        state: Tensor,
        table: Tensor,
        guided: Sequence[int],
    ) -> Tensor:
        """Return the guided prediction of every row [B, C, h, w] by one UNet forward."""
        num_images = len(slots)
        conditions = self._conditions([slot.conditions[expert] for slot in slots], guided)
        twice = torch.tensor(guided, dtype=torch.long, device=self._device)
        x = state * table[:, C_IN].view(-1, 1, 1, 1)
        timestep = table[:, TIMESTEP]
        adapters = [slot.adapters[expert] for slot in slots]
        texts = [slot.texts(expert) for slot in slots]
        output = self._forwards[expert](
            torch.cat([x, x[twice]]),
            torch.cat([timestep, timestep[twice]]),
            conditions,
            [*adapters, *[adapters[row] for row in guided]],
            [*[prompt for prompt, _ in texts], *[texts[row][1] for row in guided]],
        )
        cond, uncond = output[:num_images], output[num_images:]
        if not guided:
            return cond
        if len(guided) < num_images:
            uncond = cond.index_copy(0, twice, uncond)
        active = table[:, ACTIVE] > 0
        return combine(cond, uncond, table[:, SCALE], table[:, RESCALE], active)

    def _conditions(self, images: Sequence[Conditions], guided: Sequence[int]) -> Conditions:
        """Return what the UNet's rows are told; remembered while the same rows come again."""
        key = (*images, *guided)
        if key not in self._batches:
            self._batches[key] = gather_conditions(images, guided)
            if len(self._batches) > _REMEMBERED_BATCHES:
                self._batches.popitem(last=False)
        self._batches.move_to_end(key)
        return self._batches[key]

    @staticmethod
    def _denoised(
        rows: Sequence[Row], state: Tensor, output: Tensor, table: Tensor
    ) -> list[Tensor | None]:
        """Return the estimate of x0 [C, h, w] for rows that want one."""
        wanted = [index for index, row in enumerate(rows) if row.preview]
        if not wanted:
            return [None] * len(rows)
        estimate = estimate_denoised(state[wanted], output[wanted], table[wanted, DENOISED])
        found = dict(zip(wanted, estimate, strict=True))
        return [found.get(index) for index in range(len(rows))]

    def _first_latents(self, placement: Placement, noise: RowNoise) -> Tensor:
        """Return x before the first evaluation, [C, h, w] float32.

        The order of draws is diffusers': the posterior of a picture, then the noise on it.
        """
        request, (signal, sigma) = placement.request, placement.route.start
        shape = (self._vae.latent_channels, request.height // 8, request.width // 8)
        source = request.source
        if isinstance(source, LatentsInput):
            noise.skip(request.skip_draws, shape)
            return torch.from_numpy(source.latents[placement.index]).float()
        if not isinstance(source, ImageInput):
            return sigma * noise.draw(shape)
        picture = read_picture(source.data, request.width, request.height)
        posterior = noise.draw(shape)[None]
        latents = self._vae.encode(pixels_from_images(picture[None]), posterior)[0]
        return signal * latents + sigma * noise.draw(shape).to(latents.device)
