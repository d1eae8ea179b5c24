"""Latents cross to the peer with all that it needs, and its answers become this server's."""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np
import pytest

from diptych.clients import calls, events
from diptych.errors import (
    DiptychError,
    Draining,
    InvalidRequest,
    PeerUnavailable,
    ServerUnreachable,
    TenantRefused,
)
from diptych.inference.handoff import Handoff
from diptych.inference.hosted import HostedExpert
from diptych.inference.trajectory import (
    AdapterUse,
    Completed,
    Event,
    Expert,
    ImageReady,
    ImageRequest,
    OutputFormat,
    Queued,
    StageSettings,
    Started,
    Stepped,
    Timings,
)

REFINER = HostedExpert(
    expert=Expert.REFINER,
    family="nano",
    model="nano",
    prediction_type="v_prediction",
    guidance_scale=4.0,
    remote=True,
)
REQUEST = ImageRequest(
    request_id="r",
    width=128,
    height=64,
    seed=7,
    num_steps=3,
    num_images=2,
    boundary=0.65,
    base=StageSettings(prompt="a red circle"),
    refiner=StageSettings(prompt="detail", guidance_scale=3.0),
    solver="ddim",
    deadline=150.0,
)


class FakePeer:
    """A client whose server refines everything in one step, or raises ``error``."""

    def __init__(self, error: DiptychError | None = None) -> None:
        self.error = error
        self.calls: list[calls.RefineCall] = []
        self.timeouts: list[float | None] = []
        self.tenants: list[str] = []
        """For whom it was asked to act."""

    def acting_for(self, tenant: str) -> "FakePeer":
        self.tenants.append(tenant)
        return self

    async def refine(
        self, call: calls.RefineCall, *, timeout_s: float | None = None
    ) -> AsyncIterator[events.Event]:
        self.calls.append(call)
        self.timeouts.append(timeout_s)
        yield events.Started()
        if self.error is not None:
            raise self.error
        assert isinstance(call.source, calls.Latents)
        assert call.seed is not None
        for index in range(len(call.source.values)):
            yield events.Progress(image_index=index, step=1, num_steps=1, expert="refiner")
            yield events.Picture(
                image_index=index,
                seed=call.seed + index,
                width=128,
                height=64,
                media_type="image/png",
                data=b"refined",
            )
        zero = events.Timings(
            queue_s=0.0, encode_s=0.0, base_s=0.0, refiner_s=0.0, decode_s=0.0, total_s=0.0
        )
        timings = dataclasses.replace(
            zero, refiner_s=2.0, decode_s=0.5, total_s=3.0, num_texts_cached=2
        )
        yield events.Completed(request_id=call.request_id, timings=timings)


class FakeBase:
    """Runs the base part in two steps; its latents are of ``side`` latent pixels."""

    def __init__(self, side: int = 8) -> None:
        self.side = side
        self.requests: list[ImageRequest] = []
        self.left = False

    async def run(self, request: ImageRequest) -> AsyncGenerator[Event]:
        self.requests.append(request)
        try:
            yield Queued(position=0, predicted_s=0.0)
            yield Started()
            for index in range(request.num_images):
                for step in (1, 2):
                    yield Stepped(image_index=index, step=step, num_steps=2, expert=Expert.BASE)
            for index in reversed(range(request.num_images)):
                yield ImageReady(
                    image_index=index,
                    seed=request.seed + index,
                    width=request.width,
                    height=request.height,
                    latents=np.full((4, self.side, self.side), index, np.float32),
                    draws=2,
                )
            timings = Timings(base_s=4.0, decode_s=9.0, total_s=5.0, num_texts_encoded=3)
            yield Completed(timings=timings)
        finally:
            self.left = True


@pytest.fixture
def base() -> FakeBase:
    return FakeBase()


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


def handoff(peer: FakePeer, refiner: HostedExpert = REFINER) -> Handoff:
    return Handoff(peer, address="peer:1", refiner=refiner, base_family="nano", clock=lambda: 100.0)


async def painted(peer: FakePeer, base: FakeBase, request: ImageRequest = REQUEST) -> list[Event]:
    return [event async for event in handoff(peer).paint(request, base.run)]


async def test_base_part_stops_at_the_boundary_as_latents(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    part = base.requests[0]
    assert (part.refiner, part.boundary, part.output) == (None, 0.65, OutputFormat.LATENTS)


async def test_latents_cross_in_order_of_their_images(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    source = peer.calls[0].source
    assert isinstance(source, calls.Latents)
    assert [float(values.max()) for values in source.values] == [0.0, 1.0]


async def test_peer_goes_on_in_the_same_random_stream(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    call = peer.calls[0]
    assert isinstance(call.source, calls.Latents)
    assert (call.seed, call.source.num_draws) == (7, 2)


async def test_peer_gets_the_same_schedule(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    call = peer.calls[0]
    assert (call.num_steps, call.boundary, call.solver) == (3, 0.65, "ddim")


async def test_peer_gets_the_refiners_settings(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    stage = peer.calls[0].refiner
    assert (stage.prompt, stage.guidance_scale, stage.aesthetic_score) == ("detail", 3.0, None)


ADAPTERS = tuple(
    AdapterUse(digest=f"sha256:{name * 64}", name=name, scale=0.5, experts=frozenset(experts))
    for name, experts in {"a": {Expert.BASE}, "b": {Expert.REFINER}, "c": set(Expert)}.items()
)


async def test_peer_is_told_of_the_refiners_adapters_by_digest(
    peer: FakePeer, base: FakeBase
) -> None:
    await painted(peer, base, dataclasses.replace(REQUEST, adapters=ADAPTERS))
    told = [(choice.adapter, choice.scale) for choice in peer.calls[0].adapters]
    assert told == [(f"sha256:{'b' * 64}", 0.5), (f"sha256:{'c' * 64}", 0.5)]


async def test_peer_is_told_whose_the_refiners_adapters_are(peer: FakePeer, base: FakeBase) -> None:
    adapters = tuple(dataclasses.replace(use, tenant="studio") for use in ADAPTERS)
    await painted(peer, base, dataclasses.replace(REQUEST, adapters=adapters))
    assert peer.tenants == ["studio"]


async def test_peer_is_told_of_no_tenant_without_adapters_of_the_refiner(
    peer: FakePeer, base: FakeBase
) -> None:
    await painted(peer, base, dataclasses.replace(REQUEST, adapters=ADAPTERS[:1]))
    assert peer.tenants == []


async def test_peer_that_does_not_trust_this_server_is_unavailable(base: FakeBase) -> None:
    refusal = TenantRefused("base-pool may not act for another tenant in Refine")
    with pytest.raises(PeerUnavailable, match="base-pool may not act"):
        await painted(FakePeer(refusal), base)


async def test_base_part_has_the_bases_adapters(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base, dataclasses.replace(REQUEST, adapters=ADAPTERS))
    assert [use.name for use in base.requests[0].adapters] == ["a", "c"]


async def test_aesthetic_score_is_sent_to_a_refiner_that_takes_one(
    peer: FakePeer, base: FakeBase
) -> None:
    scored = dataclasses.replace(REFINER, takes_aesthetic_score=True)
    async for _ in handoff(peer, scored).paint(REQUEST, base.run):
        pass
    assert peer.calls[0].refiner.aesthetic_score == 6.0


async def test_peer_gets_the_time_that_is_left(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base)
    assert peer.timeouts == [50.0]


async def test_request_without_a_deadline_sends_none(peer: FakePeer, base: FakeBase) -> None:
    await painted(peer, base, dataclasses.replace(REQUEST, deadline=None))
    assert peer.timeouts == [None]


async def test_steps_are_counted_over_both_parts(peer: FakePeer, base: FakeBase) -> None:
    heard = [event for event in await painted(peer, base) if isinstance(event, Stepped)]
    last = [event for event in heard if event.image_index == 1]
    assert [(event.step, event.num_steps) for event in last] == [(1, 3), (2, 3), (3, 3)]


async def test_caller_hears_the_peers_images_only(peer: FakePeer, base: FakeBase) -> None:
    images = [event for event in await painted(peer, base) if isinstance(event, ImageReady)]
    assert [(image.image_index, image.seed, image.data) for image in images] == [
        (0, 7, b"refined"),
        (1, 8, b"refined"),
    ]


async def test_caller_hears_one_beginning_and_one_end(peer: FakePeer, base: FakeBase) -> None:
    kinds = [type(event) for event in await painted(peer, base)]
    assert (kinds.count(Started), kinds.count(Completed), kinds[-1]) == (1, 1, Completed)


async def test_times_are_those_of_both_parts(peer: FakePeer, base: FakeBase) -> None:
    last = (await painted(peer, base))[-1]
    assert isinstance(last, Completed)
    assert last.timings == Timings(
        base_s=4.0,
        refiner_s=2.0,
        decode_s=0.5,
        total_s=8.0,
        num_texts_encoded=3,
        num_texts_cached=2,
    )


async def test_latents_too_large_for_a_message_go_in_several_calls(peer: FakePeer) -> None:
    large = FakeBase(side=320)
    images = [event for event in await painted(peer, large) if isinstance(event, ImageReady)]
    assert [call.seed for call in peer.calls] == [7, 8]
    assert [image.image_index for image in images] == [0, 1]


@pytest.mark.parametrize(
    "error", [ServerUnreachable(address="peer:1", detail="refused"), Draining(3.0)]
)
async def test_peer_that_does_not_answer_is_unavailable(
    error: DiptychError, base: FakeBase
) -> None:
    with pytest.raises(PeerUnavailable, match="peer peer:1"):
        await painted(FakePeer(error), base)


async def test_peers_own_pause_is_passed_on(base: FakeBase) -> None:
    with pytest.raises(PeerUnavailable) as caught:
        await painted(FakePeer(Draining(3.0)), base)
    assert caught.value.retry_after_s == 3.0


async def test_peers_refusal_is_passed_on_as_it_is(base: FakeBase) -> None:
    with pytest.raises(InvalidRequest):
        await painted(FakePeer(InvalidRequest([])), base)


async def test_leaving_early_leaves_the_base_part_too(peer: FakePeer, base: FakeBase) -> None:
    events_ = handoff(peer).paint(REQUEST, base.run)
    await anext(events_)
    await events_.aclose()
    assert base.left
