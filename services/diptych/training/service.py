"""The gRPC face of training; asyncio, what blocks in threads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
from typing_extensions import override

from diptych.errors import Draining, Starting
from diptych.rpc.interceptors import current_caller
from diptych.training.events import EventKind
from diptych.training.ledger.jobs import Job, NewJob
from diptych.training.ports import Checked, Jobs
from diptych.training.states import ENDED
from diptych.training.task import Wish
from diptych.training.wire import (
    create_order,
    estimate_message,
    event_message,
    job_message,
    list_order,
    progress_message,
    watched_after,
)
from diptych.v1 import training_pb2 as pb
from diptych.v1 import training_pb2_grpc as pb_grpc

__all__ = ["TRAINING_SERVICE_NAME", "Hosting", "TrainingService"]

TRAINING_SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["TrainingService"].full_name
NUM_THREADS: Final = 8
NUM_CHECKING: Final = 2
NUM_RECENT: Final = 100
"""Events among which the latest progress is looked for."""

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")


class RemovesFiles(Protocol):
    """Removes what lies on disk of a job that is forgotten."""

    def __call__(self, tenant: str, job_id: str) -> None:
        """Remove it; nothing is there of a job that never began."""


class ChecksJob(Protocol):
    """Tells whether a job can be run."""

    def __call__(self, text: str, *, tenant: str) -> Checked:
        """Return what a job's text says; raises with everything that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What the service answers with."""

    jobs: Jobs
    check: ChecksJob
    remove_files: RemovesFiles
    hurry: Callable[[], None]
    """Called when there is a job to run."""
    max_active_jobs: int | None = None
    max_spec_bytes: int = 1 << 18
    poll_s: float = 0.5
    """Between two looks at the events of a job that is watched."""


class TrainingService(pb_grpc.TrainingServiceServicer):
    """Serves what ``open`` was given; before, every call is refused with ``Starting``.

    Belongs to one event loop. Errors leave as ``DiptychError``; the interceptor of ``rpc`` turns
    them into statuses.
    """

    def __init__(self) -> None:
        self._hosting: Hosting | None = None
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="training")
        """For what waits for the ledger."""
        self._checking = ThreadPoolExecutor(NUM_CHECKING, thread_name_prefix="checks")
        """For what may wait for a hub or a bucket."""
        self._draining = asyncio.Event()

    def open(self, hosting: Hosting) -> None:
        """Begin to serve."""
        self._hosting = hosting

    def begin_drain(self) -> None:
        """Hand watchers back, who go on elsewhere; other calls are short."""
        self._draining.set()

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._checking.shutdown(cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)

    @override
    async def CreateTrainingJob(
        self, request: pb.CreateTrainingJobRequest, context: Context
    ) -> pb.CreateTrainingJobResponse:
        """Check a job and queue it."""
        hosting = self._opened()
        order = create_order(request, max_spec_bytes=hosting.max_spec_bytes)
        caller = current_caller()
        checked = await self._run(
            hosting.check, order.spec, tenant=caller.tenant, within=self._checking
        )
        estimate = estimate_message(checked.estimate)
        if order.is_dry_run:
            return pb.CreateTrainingJobResponse(estimate=estimate)
        new = NewJob(
            tenant=caller.tenant,
            name=checked.name,
            spec=checked.text,
            request_id=order.request_id,
            priority=order.priority,
            max_active=hosting.max_active_jobs,
        )
        job = await self._run(hosting.jobs.create, new)
        hosting.hurry()
        return pb.CreateTrainingJobResponse(job=job_message(job), estimate=estimate)

    @override
    async def GetTrainingJob(
        self, request: pb.GetTrainingJobRequest, context: Context
    ) -> pb.GetTrainingJobResponse:
        """Show one job."""
        jobs, tenant = self._opened().jobs, current_caller().tenant
        job = await self._run(jobs.get, request.job_id, tenant=tenant)
        recent = await self._run(
            jobs.events,
            job.id,
            tenant=tenant,
            after=max(0, job.last_event - NUM_RECENT),
            limit=NUM_RECENT,
        )
        told = [event.data for event in recent if event.kind is EventKind.PROGRESS]
        progress = progress_message(told[-1]) if told else None
        return pb.GetTrainingJobResponse(job=job_message(job, progress=progress))

    @override
    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        """List a page of jobs."""
        order = list_order(request)
        page = await self._run(
            self._opened().jobs.list,
            tenant=current_caller().tenant,
            states=order.states,
            name_prefix=order.name_prefix,
            page_size=order.page_size,
            page_token=order.page_token,
        )
        jobs = [job_message(job, with_spec=False) for job in page.jobs]
        return pb.ListTrainingJobsResponse(jobs=jobs, next_page_token=page.next_page_token)

    @override
    async def CancelTrainingJob(
        self, request: pb.CancelTrainingJobRequest, context: Context
    ) -> pb.CancelTrainingJobResponse:
        """End a job."""
        job = await self._wish(request.job_id, "cancel")
        return pb.CancelTrainingJobResponse(job=job_message(job))

    @override
    async def PauseTrainingJob(
        self, request: pb.PauseTrainingJobRequest, context: Context
    ) -> pb.PauseTrainingJobResponse:
        """Stop a job for now."""
        job = await self._wish(request.job_id, "pause")
        return pb.PauseTrainingJobResponse(job=job_message(job))

    @override
    async def ResumeTrainingJob(
        self, request: pb.ResumeTrainingJobRequest, context: Context
    ) -> pb.ResumeTrainingJobResponse:
        """Queue a job again."""
        hosting = self._opened()
        job = await self._run(
            hosting.jobs.resume,
            request.job_id,
            tenant=current_caller().tenant,
            max_active=hosting.max_active_jobs,
        )
        hosting.hurry()
        return pb.ResumeTrainingJobResponse(job=job_message(job))

    @override
    async def DeleteTrainingJob(
        self, request: pb.DeleteTrainingJobRequest, context: Context
    ) -> pb.DeleteTrainingJobResponse:
        """Remove a job."""
        hosting, tenant = self._opened(), current_caller().tenant
        await self._run(hosting.jobs.delete, request.job_id, tenant=tenant)
        await self._run(hosting.remove_files, tenant, request.job_id)
        return pb.DeleteTrainingJobResponse()

    @override
    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        """Stream a job's events until it has ended; what other servers append is seen too."""
        hosting, tenant = self._opened(), current_caller().tenant
        after, jobs = watched_after(request), hosting.jobs
        while not self._draining.is_set():
            events = await self._run(jobs.events, request.job_id, tenant=tenant, after=after)
            for event in events:
                yield pb.WatchTrainingJobResponse(event=event_message(event))
                after = event.number
            if events:
                continue
            job = await self._run(jobs.get, request.job_id, tenant=tenant)
            if job.last_event > after:
                continue
            if job.state in ENDED:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), hosting.poll_s)
        raise Draining

    async def _wish(self, job_id: str, wish: Wish) -> Job:
        jobs = self._opened().jobs
        return await self._run(jobs.wish, job_id, wish, tenant=current_caller().tenant)

    def _opened(self) -> Hosting:
        if self._hosting is None:
            raise Starting
        return self._hosting

    async def _run(
        self,
        function: Callable[..., Result],
        *arguments: object,
        within: ThreadPoolExecutor | None = None,
        **named: object,
    ) -> Result:
        loop = asyncio.get_running_loop()
        work = partial(function, *arguments, **named)
        return await loop.run_in_executor(within or self._threads, work)
