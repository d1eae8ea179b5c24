"""A peer is waited for, and joined only when its refiner fits this base."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from diptych.clients.calls import RefineCall
from diptych.clients.capabilities import Capabilities, read_capabilities
from diptych.clients.events import Event, Started
from diptych.errors import ExpertMissing, ExpertsMismatch, Starting
from diptych.inference.hosted import Hosted
from diptych.inference.peer import join_peer
from diptych.inference.replies import capabilities


class FakeClient:
    """A peer that says what it hosts after ``num_refusals`` tries."""

    def __init__(self, answer: Capabilities, num_refusals: int = 0) -> None:
        self.answer, self.num_refusals = answer, num_refusals

    async def get_capabilities(self, *, timeout_s: float | None = None) -> Capabilities:
        assert timeout_s is not None
        if self.num_refusals:
            self.num_refusals -= 1
            raise Starting
        return self.answer

    def acting_for(self, tenant: str) -> "FakeClient":
        """Return itself: joining is for nobody."""
        del tenant
        return self

    async def refine(
        self, call: RefineCall, *, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Answer nothing of use: joining refines nothing."""
        del call, timeout_s
        yield Started()


def said_by(hosted: Hosted) -> Capabilities:
    return read_capabilities(capabilities(hosted))


async def joined(hosted: Hosted, client: FakeClient) -> Hosted:
    alone = dataclasses.replace(hosted, refiner=None)
    both, _ = await join_peer(client, alone, address="peer:1", clock=lambda: 0.0, retry_s=0.0)
    return both


async def test_peers_refiner_is_hosted_remotely(hosted: Hosted) -> None:
    both = await joined(hosted, FakeClient(said_by(hosted)))
    assert both.refiner is not None
    assert (both.refiner.family, both.refiner.guidance_scale, both.refiner.remote) == (
        "nano",
        4.0,
        True,
    )


async def test_peer_that_is_starting_is_waited_for(hosted: Hosted) -> None:
    both = await joined(hosted, FakeClient(said_by(hosted), num_refusals=3))
    assert both.refiner is not None


async def test_peer_without_a_refiner_is_refused(hosted: Hosted) -> None:
    answer = said_by(dataclasses.replace(hosted, refiner=None))
    with pytest.raises(ExpertMissing):
        await joined(hosted, FakeClient(answer))


async def test_peer_that_only_hands_over_itself_is_refused(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    remote = dataclasses.replace(hosted.refiner, remote=True)
    answer = said_by(dataclasses.replace(hosted, refiner=remote))
    with pytest.raises(ExpertMissing):
        await joined(hosted, FakeClient(answer))


async def test_refiner_that_predicts_something_else_is_refused(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    other = dataclasses.replace(hosted.refiner, prediction_type="epsilon")
    answer = said_by(dataclasses.replace(hosted, refiner=other))
    with pytest.raises(ExpertsMismatch, match="prediction_type"):
        await joined(hosted, FakeClient(answer))
