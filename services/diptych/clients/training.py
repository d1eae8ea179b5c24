"""Clients of TrainingService: one synchronous, one asyncio, with the same methods.

Both raise the error the server raised, with its fields. ``watch`` outlives servers that go away: it
goes on with the next event where another answers.
"""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Self

import grpc

from diptych.clients.config import ClientConfig, call_options, meaning
from diptych.clients.readiness import wait_until_ready, wait_until_ready_async
from diptych.clients.training_messages import (
    create_request,
    list_request,
    next_event,
    read_created,
    read_job,
)
from diptych.clients.training_values import (
    CreatedJob,
    JobCall,
    ListCall,
    TrainingEvent,
    TrainingJob,
)
from diptych.errors import DiptychError, Unavailable
from diptych.rpc.channel import open_async_channel, open_channel
from diptych.v1 import training_pb2 as pb
from diptych.v1 import training_pb2_grpc as pb_grpc

__all__ = ["AsyncTrainingClient", "TrainingClient"]

PATIENCE_S: Final = 60.0
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0


class TrainingClient:
    """A synchronous client; may be used from several threads. Close it, or use it in a ``with``."""

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_channel(config.channel)
        self._stub: Any = pb_grpc.TrainingServiceStub(self._channel)

    def create(
        self, call: JobCall, *, dry_run: bool = False, timeout_s: float | None = None
    ) -> CreatedJob:
        """Queue a job, or with ``dry_run`` only check it and tell what it would take.

        Raises:
            DiptychError: what the server raised, or ``Unavailable`` if none answers.
        """
        request = create_request(call, str(uuid.uuid4()), dry_run=dry_run)
        return read_created(self._call(self._stub.CreateTrainingJob, request, timeout_s))

    def get(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Return a job; raises as ``create`` does."""
        request = pb.GetTrainingJobRequest(job_id=job_id)
        return read_job(self._call(self._stub.GetTrainingJob, request, timeout_s).job)

    def list_jobs(
        self, call: ListCall | None = None, *, timeout_s: float | None = None
    ) -> Iterator[TrainingJob]:
        """Yield jobs, the newest first, asking for pages as they are needed."""
        token = ""
        while True:
            request = list_request(call or ListCall(), token)
            page = self._call(self._stub.ListTrainingJobs, request, timeout_s)
            yield from map(read_job, page.jobs)
            token = page.next_page_token
            if not token:
                return

    def cancel(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a job end after its next step, with a checkpoint."""
        request = pb.CancelTrainingJobRequest(job_id=job_id)
        return read_job(self._call(self._stub.CancelTrainingJob, request, timeout_s).job)

    def pause(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a job stop until it is resumed."""
        request = pb.PauseTrainingJobRequest(job_id=job_id)
        return read_job(self._call(self._stub.PauseTrainingJob, request, timeout_s).job)

    def resume(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Queue a paused, failed or cancelled job again."""
        request = pb.ResumeTrainingJobRequest(job_id=job_id)
        return read_job(self._call(self._stub.ResumeTrainingJob, request, timeout_s).job)

    def delete(self, job_id: str, *, timeout_s: float | None = None) -> None:
        """Remove an ended or paused job with its events and checkpoints."""
        request = pb.DeleteTrainingJobRequest(job_id=job_id)
        self._call(self._stub.DeleteTrainingJob, request, timeout_s)

    def watch(
        self, job_id: str, *, after: int = 0, patience_s: float = PATIENCE_S
    ) -> Iterator[TrainingEvent]:
        """Yield a job's events from the one after number ``after`` until the job has ended.

        Closing the iterator ends the call.

        Args:
            job_id: The job.
            after: Number of the last event that is known.
            patience_s: How long no server may answer.

        Raises:
            DiptychError: as ``create``.
        """
        waits = _Waits(patience_s)
        while True:
            try:
                for event in self._watch_once(job_id, after):
                    after = event.number
                    waits = _Waits(patience_s)
                    yield event
            except Unavailable as error:
                wait_s = waits.after(error)
            else:
                return
            threading.Event().wait(wait_s)

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server takes calls; raises if it does not within ``timeout_s``."""
        wait_until_ready(self._channel, self._config, timeout_s=timeout_s)

    def close(self) -> None:
        """Cancel what runs and disconnect."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _watch_once(self, job_id: str, after: int) -> Iterator[TrainingEvent]:
        """Yield what one call gives."""
        request_id = str(uuid.uuid4())
        request = pb.WatchTrainingJobRequest(job_id=job_id, after_event=after)
        options = call_options(self._config, request_id, float("inf"))
        messages = self._stub.WatchTrainingJob(request, **options)
        try:
            with _translating(self._config, request_id):
                for message in messages:
                    event = next_event(message, after=after)
                    after = event.number
                    yield event
        finally:
            messages.cancel()

    def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        with _translating(self._config, request_id):
            return method(request, **call_options(self._config, request_id, timeout_s))


class AsyncTrainingClient:
    """An asyncio client of the loop it was made in. Close it, or use it in an ``async with``."""

    def __init__(self, config: ClientConfig) -> None:
        """Prepare to call as ``config`` says; the first call connects."""
        self._config = config
        self._channel = open_async_channel(config.channel)
        self._stub: Any = pb_grpc.TrainingServiceStub(self._channel)

    async def create(
        self, call: JobCall, *, dry_run: bool = False, timeout_s: float | None = None
    ) -> CreatedJob:
        """Queue a job, or with ``dry_run`` only check it and tell what it would take."""
        request = create_request(call, str(uuid.uuid4()), dry_run=dry_run)
        return read_created(await self._call(self._stub.CreateTrainingJob, request, timeout_s))

    async def get(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Return a job."""
        request = pb.GetTrainingJobRequest(job_id=job_id)
        return read_job((await self._call(self._stub.GetTrainingJob, request, timeout_s)).job)

    async def list_jobs(
        self, call: ListCall | None = None, *, timeout_s: float | None = None
    ) -> AsyncIterator[TrainingJob]:
        """Yield jobs, the newest first, asking for pages as they are needed."""
        token = ""
        while True:
            request = list_request(call or ListCall(), token)
            page = await self._call(self._stub.ListTrainingJobs, request, timeout_s)
            for job in page.jobs:
                yield read_job(job)
            token = page.next_page_token
            if not token:
                return

    async def cancel(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a job end after its next step, with a checkpoint."""
        request = pb.CancelTrainingJobRequest(job_id=job_id)
        return read_job((await self._call(self._stub.CancelTrainingJob, request, timeout_s)).job)

    async def pause(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a job stop until it is resumed."""
        request = pb.PauseTrainingJobRequest(job_id=job_id)
        return read_job((await self._call(self._stub.PauseTrainingJob, request, timeout_s)).job)

    async def resume(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Queue a paused, failed or cancelled job again."""
        request = pb.ResumeTrainingJobRequest(job_id=job_id)
        return read_job((await self._call(self._stub.ResumeTrainingJob, request, timeout_s)).job)

    async def delete(self, job_id: str, *, timeout_s: float | None = None) -> None:
        """Remove an ended or paused job with its events and checkpoints."""
        request = pb.DeleteTrainingJobRequest(job_id=job_id)
        await self._call(self._stub.DeleteTrainingJob, request, timeout_s)

    async def watch(
        self, job_id: str, *, after: int = 0, patience_s: float = PATIENCE_S
    ) -> AsyncIterator[TrainingEvent]:
        """Yield a job's events as the synchronous client does."""
        waits = _Waits(patience_s)
        while True:
            try:
                async for event in self._watch_once(job_id, after):
                    after = event.number
                    waits = _Waits(patience_s)
                    yield event
            except Unavailable as error:
                wait_s = waits.after(error)
            else:
                return
            await asyncio.sleep(wait_s)

    async def wait_until_ready(self, *, timeout_s: float) -> None:
        """Return as soon as the server takes calls; raises if it does not within ``timeout_s``."""
        await wait_until_ready_async(self._channel, self._config, timeout_s=timeout_s)

    async def close(self) -> None:
        """Cancel what runs and disconnect."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _watch_once(self, job_id: str, after: int) -> AsyncIterator[TrainingEvent]:
        """Yield what one call gives."""
        request_id = str(uuid.uuid4())
        request = pb.WatchTrainingJobRequest(job_id=job_id, after_event=after)
        options = call_options(self._config, request_id, float("inf"))
        messages = self._stub.WatchTrainingJob(request, **options)
        try:
            with _translating(self._config, request_id):
                async for message in messages:
                    event = next_event(message, after=after)
                    after = event.number
                    yield event
        finally:
            messages.cancel()

    async def _call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None
    ) -> Any:  # noqa: ANN401 - any message
        request_id = str(uuid.uuid4())
        with _translating(self._config, request_id):
            return await method(request, **call_options(self._config, request_id, timeout_s))


class _Waits:
    """How long to wait for a server to come back; owned by one watch, anew after each event."""

    def __init__(self, patience_s: float) -> None:
        self._left_s, self._next_s = patience_s, FIRST_WAIT_S

    def after(self, error: DiptychError) -> float:
        """Return the seconds to wait after ``error``, or raise it when patience is at its end."""
        if self._left_s <= 0:
            raise error
        wait_s = min(max(self._next_s, error.retry_after_s or 0.0), LONGEST_WAIT_S, self._left_s)
        self._left_s -= wait_s
        self._next_s *= 2
        return wait_s


@contextlib.contextmanager
def _translating(config: ClientConfig, request_id: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise meaning(error, config, request_id) from error
