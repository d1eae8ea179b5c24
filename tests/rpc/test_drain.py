"""The gate counts, closes and hands back."""

import asyncio

import pytest

from diptych.errors import Draining
from diptych.rpc.drain import Gate


async def stay(gate: Gate, inside: asyncio.Event, leave: asyncio.Event) -> str:
    async with gate.admit():
        inside.set()
        await leave.wait()
    return "left"


async def enter(gate: Gate) -> tuple[asyncio.Task[str], asyncio.Event]:
    """Return a task that is inside ``gate``, and the event that lets it leave."""
    inside, leave = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(stay(gate, inside, leave))
    await inside.wait()
    return task, leave


async def test_open_gate_counts_who_is_inside() -> None:
    gate = Gate()
    task, leave = await enter(gate)
    assert gate.num_running == 1
    leave.set()
    await task


async def test_gate_forgets_who_left() -> None:
    gate = Gate()
    task, leave = await enter(gate)
    leave.set()
    await task
    assert gate.num_running == 0


async def test_closing_gate_lets_no_one_in() -> None:
    gate = Gate(retry_after_s=3.0)
    gate.begin_closing()
    with pytest.raises(Draining) as caught:
        await stay(gate, asyncio.Event(), asyncio.Event())
    assert caught.value.retry_after_s == 3.0


async def test_closing_gate_lets_those_inside_finish() -> None:
    gate = Gate()
    task, leave = await enter(gate)
    closing = asyncio.create_task(gate.close(grace_s=30.0))
    await asyncio.sleep(0)
    leave.set()
    await closing
    assert await task == "left"


async def test_closed_gate_hands_back_who_did_not_finish() -> None:
    gate = Gate()
    task, _ = await enter(gate)
    await gate.close(grace_s=0.0)
    with pytest.raises(Draining):
        await task


async def test_caller_who_cancels_is_not_handed_back() -> None:
    gate = Gate()
    task, _ = await enter(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_an_empty_gate_returns_at_once() -> None:
    await asyncio.wait_for(Gate().close(grace_s=3600.0), timeout=5.0)
