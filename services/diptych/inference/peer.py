"""Finding the peer that hosts the refiner, before this server calls itself ready."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Final, Protocol

from diptych.clients.capabilities import Capabilities, ExpertInfo
from diptych.errors import ExpertMissing, ExpertsMismatch, Unavailable
from diptych.inference.handoff import Handoff, RefinerClient
from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.trajectory import Expert

__all__ = ["PeerClient", "join_peer"]

RETRY_S: Final = 1.0
AESTHETIC_FAMILIES: Final = frozenset({"sdxl-refiner"})
"""Families that are conditioned on an aesthetic score."""

_log = logging.getLogger(__name__)


class PeerClient(RefinerClient, Protocol):
    """The part of ``AsyncInferenceClient`` that joining needs."""

    async def get_capabilities(self, *, timeout_s: float | None = None) -> Capabilities:
        """Return what the peer can do."""


async def join_peer(
    client: PeerClient,
    hosted: Hosted,
    *,
    address: str,
    clock: Callable[[], float],
    retry_s: float = RETRY_S,
) -> tuple[Hosted, Handoff]:
    """Wait until the peer answers; return what both host together, and the way to hand over.

    Raises:
        ExpertMissing: The peer hosts no refiner, or this server no base.
        ExpertsMismatch: The peer's refiner does not predict what this base does.
    """
    base = hosted.need_base()
    found = await _first_answer(client, address, retry_s)
    info = next((e for e in found.experts if e.expert == Expert.REFINER and not e.remote), None)
    if info is None:
        raise ExpertMissing(Expert.REFINER)
    if info.prediction_type != base.prediction_type:
        raise ExpertsMismatch(
            field="prediction_type", base=base.prediction_type, refiner=info.prediction_type
        )
    refiner = _remote(info)
    handoff = Handoff(
        client, address=address, refiner=refiner, base_family=base.family, clock=clock
    )
    return dataclasses.replace(hosted, refiner=refiner), handoff


async def _first_answer(client: PeerClient, address: str, retry_s: float) -> Capabilities:
    """Ask the peer what it hosts until it says so."""
    while True:
        try:
            return await client.get_capabilities(timeout_s=5.0)
        except Unavailable as error:
            _log.info("waiting for the peer", extra={"peer": address, "problem": str(error)})
            await asyncio.sleep(retry_s)


def _remote(info: ExpertInfo) -> HostedExpert:
    return HostedExpert(
        expert=Expert.REFINER,
        family=info.family,
        model=info.model,
        prediction_type=info.prediction_type,
        guidance_scale=info.default_guidance_scale,
        takes_aesthetic_score=info.family in AESTHETIC_FAMILIES,
        remote=True,
    )
