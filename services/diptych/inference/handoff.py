"""Two pools: the base part of a picture here, the refiner part at a peer, latents in between.

The picture is the one that a single server would paint: the peer gets the latents at the
boundary, each image's seed, and how many noises its solver has drawn, so it goes on in the same
random stream. Adapters of the refiner are named to the peer by their digests, so both servers
need one store of adapters, and as adapters of the caller's tenant, which the peer has to trust
this server to name. The solver begins anew at the boundary, as it does on one server with
history ``restart``; ``carry`` would need the solver's memory too and is refused before it comes
here.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from diptych.clients import calls, events
from diptych.errors import (
    DiptychError,
    PeerUnavailable,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from diptych.inference.hosted import HostedExpert
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Event,
    Expert,
    ImageReady,
    ImageRequest,
    OutputFormat,
    Preview,
    StageSettings,
    Stepped,
    Timings,
)

__all__ = ["Handoff", "RefinerClient", "Run"]

MAX_LATENTS_BYTES: Final = 3 * 1024 * 1024
"""Latents of one call; images that do not fit together go in several calls."""

DEFAULT_RETRY_S: Final = 1.0

Run = Callable[[ImageRequest], AsyncGenerator[Event]]
"""Carries a request out on this server's engine."""


class RefinerClient(Protocol):
    """The part of ``AsyncInferenceClient`` that a handoff needs."""

    def refine(
        self, call: calls.RefineCall, *, timeout_s: float | None = None
    ) -> AsyncIterator[events.Event]:
        """Yield what happens to ``call`` at the peer."""

    def acting_for(self, tenant: str) -> "RefinerClient":
        """Return the client as it calls for ``tenant``."""


@dataclass(slots=True, kw_only=True)
class _Half:
    """What the base part has come to; owned by one ``paint``."""

    num_steps: int = 0
    """Steps each image took."""
    images: list[ImageReady] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)


class Handoff:
    """Paints with the local base and the refiner of the server at ``address``."""

    def __init__(
        self,
        client: RefinerClient,
        *,
        address: str,
        refiner: HostedExpert,
        base_family: str,
        clock: Callable[[], float],
    ) -> None:
        """Take a client of the peer, what the peer hosts, and the engine's clock."""
        self._client = client
        self._address = address
        self._refiner = refiner
        self._base_family = base_family
        self._clock = clock

    async def paint(self, request: ImageRequest, run: Run) -> AsyncGenerator[Event]:
        """Yield the events of a request with both experts; ``run`` does its base part.

        Raises:
            PeerUnavailable: The peer does not answer, or refuses for now.
            DiptychError: Either server failed the request.
        """
        half = _Half()
        async with contextlib.aclosing(run(_base_part(request))) as base:
            async for event in base:
                if (told := _note(half, event, request)) is not None:
                    yield told
        half.images.sort(key=lambda image: image.image_index)
        refined = Timings()
        for group in _groups(half.images):
            async with contextlib.aclosing(self._refine(request, group, half)) as answers:
                async for answer in answers:
                    if isinstance(answer, Completed):
                        refined = _added(refined, answer.timings)
                    else:
                        yield answer
        yield Completed(timings=_joined(half.timings, refined))

    async def _refine(
        self, request: ImageRequest, images: Sequence[ImageReady], half: _Half
    ) -> AsyncGenerator[Event]:
        """Yield the events of the refiner's part of some images."""
        call, client = self._call(request, images), self._client
        if (tenant := _tenant(request)) is not None:
            client = client.acting_for(tenant)
        timeout_s = None if request.deadline is None else request.deadline - self._clock()
        try:
            async for event in client.refine(call, timeout_s=timeout_s):
                answer = _relayed(event, images[0].image_index, half.num_steps)
                if answer is not None:
                    yield answer
        except (Unavailable, Unauthenticated, PermissionDenied) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: DiptychError) -> PeerUnavailable:
        retry_after_s = error.retry_after_s
        return PeerUnavailable(
            address=self._address,
            detail=str(error),
            retry_after_s=DEFAULT_RETRY_S if retry_after_s is None else retry_after_s,
        )

    def _call(self, request: ImageRequest, images: Sequence[ImageReady]) -> calls.RefineCall:
        """Return what the peer is asked: the rest of ``images``, which follow each other."""
        assert request.refiner is not None
        latents = [image.latents for image in images if image.latents is not None]
        assert len(latents) == len(images), "the base part was asked for latents"
        return calls.RefineCall(
            request_id=request.request_id,
            refiner=_stage(request.refiner, self._refiner),
            adapters=[
                calls.AdapterChoice(
                    adapter=use.digest, scale=use.scale, parts=dict(use.parts), force=use.force
                )
                for use in _refiners(request)
            ],
            source=calls.Latents(
                values=np.stack(latents),
                family=self._base_family,
                boundary=request.boundary,
                num_steps=request.num_steps,
                num_draws=images[0].draws,
            ),
            seed=images[0].seed,
            num_steps=request.num_steps,
            boundary=request.boundary,
            solver=request.solver,
            spacing=request.spacing,
            sigma_schedule=request.sigma_schedule,
            eta=request.eta,
            long_prompt=request.long_prompt.value,
            original_size=request.original_size,
            crop_top_left=request.crop_top_left,
            target_size=request.target_size,
            output=request.output.value,
            quality=request.quality,
            preview_every=request.preview_every,
        )


def _refiners(request: ImageRequest) -> list[AdapterUse]:
    return [use for use in request.adapters if Expert.REFINER in use.experts]


def _tenant(request: ImageRequest) -> str | None:
    """Return whose the refiner's adapters are, None where there are none."""
    return next((use.tenant for use in _refiners(request)), None)


def _base_part(request: ImageRequest) -> ImageRequest:
    adapters = tuple(use for use in request.adapters if Expert.BASE in use.experts)
    return dataclasses.replace(
        request, refiner=None, output=OutputFormat.LATENTS, adapters=adapters
    )


def _note(half: _Half, event: Event, request: ImageRequest) -> Event | None:
    """Take an event of the base part into ``half``; return what the caller hears of it."""
    match event:
        case ImageReady():
            half.images.append(event)
            return None
        case Completed():
            half.timings = event.timings
            return None
        case Stepped():
            half.num_steps = max(half.num_steps, event.step)
            return dataclasses.replace(event, num_steps=max(request.num_steps, event.num_steps))
        case _:
            return event


def _groups(images: Sequence[ImageReady]) -> list[Sequence[ImageReady]]:
    """Return ``images`` in runs that fit a message; they are all of one size."""
    one = next(image.latents.nbytes for image in images if image.latents is not None)
    size = max(1, MAX_LATENTS_BYTES // one)
    return [images[first : first + size] for first in range(0, len(images), size)]


def _relayed(event: events.Event, first: int, num_done: int) -> Event | None:
    """Return the peer's event as one of the whole request's, None where that has had it."""
    match event:
        case events.Progress():
            return Stepped(
                image_index=first + event.image_index,
                step=num_done + event.step,
                num_steps=num_done + event.num_steps,
                expert=Expert.REFINER,
            )
        case events.Preview():
            return Preview(
                image_index=first + event.image_index,
                step=num_done + event.step,
                data=event.data,
                width=event.width,
                height=event.height,
            )
        case events.Picture():
            return ImageReady(
                image_index=first + event.image_index,
                seed=event.seed,
                width=event.width,
                height=event.height,
                data=b"" if event.latents is not None else event.data,
                latents=event.latents,
                draws=event.num_draws,
            )
        case events.Completed():
            return Completed(timings=Timings(**dataclasses.asdict(event.timings)))
        case _:
            return None


def _stage(stage: StageSettings, refiner: HostedExpert) -> calls.Stage:
    """Return the refiner's settings as a call states them, each one explicitly."""
    scored = refiner.takes_aesthetic_score
    return calls.Stage(
        prompt=stage.prompt,
        negative_prompt=stage.negative_prompt,
        guidance_scale=stage.guidance_scale,
        guidance_rescale=stage.guidance_rescale,
        guidance_interval=stage.guidance_interval,
        aesthetic_score=stage.aesthetic_score if scored else None,
        negative_aesthetic_score=stage.negative_aesthetic_score if scored else None,
    )


def _added(first: Timings, second: Timings) -> Timings:
    """Return the times of two things done one after the other."""
    a, b = dataclasses.asdict(first), dataclasses.asdict(second)
    return Timings(**{name: a[name] + b[name] for name in a})


def _joined(base: Timings, refined: Timings) -> Timings:
    """Return the times of a whole request; latents that crossed over were not pictures yet."""
    return dataclasses.replace(_added(base, refined), decode_s=refined.decode_s)
