"""TrainingService over loopback: jobs are made once, seen by their tenant alone, and watched."""

import contextlib
import itertools
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.training import AsyncTrainingClient, TrainingClient
from diptych.clients.training_values import (
    JobCall,
    JobProgress,
    JobResult,
    ListCall,
    Prepared,
    StateChange,
    TrainingJob,
)
from diptych.errors import (
    InvalidRequest,
    JobInvalid,
    JobNotFound,
    JobStateConflict,
    QuotaExceeded,
    RequestIdReused,
    TokenRefused,
    Unavailable,
)
from diptych.rpc.channel import ChannelConfig
from diptych.v1 import training_pb2 as pb
from diptych.v1 import training_pb2_grpc as pb_grpc
from support.training_server import ESTIMATE, Served, training_server

SLOW = json.dumps({"steps": 10_000, "step_s": 0.02})
QUICK = json.dumps({"steps": 2})
NO_JOB = "0" * 16


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with training_server(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve without running any job."""
    with training_server(tmp_path_factory.mktemp("idle"), max_running=0) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Iterator[TrainingClient]:
    with TrainingClient(next(served.tenants)[1]) as client:
        yield client


@pytest.fixture
def idle_alice(idle: Served) -> Iterator[TrainingClient]:
    with TrainingClient(next(idle.tenants)[1]) as client:
        yield client


@pytest.fixture
def idle_bob(idle: Served) -> Iterator[TrainingClient]:
    with TrainingClient(next(idle.tenants)[1]) as client:
        yield client


def made(client: TrainingClient, spec: str = QUICK, **call: object) -> TrainingJob:
    job = client.create(JobCall(spec=spec, **call)).job  # type: ignore[arg-type]
    assert job is not None
    return job


def reached(client: TrainingClient, job: TrainingJob, state: str) -> int:
    """Return the number of the event that tells that a job reached a state."""
    for event in client.watch(job.job_id):
        if isinstance(event.event, StateChange) and event.event.state == state:
            return event.number
    raise AssertionError(f"never {state}")


def test_job_is_queued_and_its_needs_are_told(idle_alice: TrainingClient) -> None:
    created = idle_alice.create(JobCall(spec=QUICK, priority=7))
    assert created.job is not None
    assert (created.job.state, created.job.priority, created.job.spec) == ("queued", 7, QUICK)
    assert created.estimate.seconds == ESTIMATE.seconds
    assert created.estimate.num_steps == ESTIMATE.num_steps


def test_validation_alone_makes_nothing(idle_alice: TrainingClient) -> None:
    created = idle_alice.create(JobCall(spec=QUICK), dry_run=True)
    assert (created.job, created.estimate.disk_bytes) == (None, ESTIMATE.disk_bytes)
    assert list(idle_alice.list_jobs()) == []


def test_same_request_is_the_same_job(idle_alice: TrainingClient) -> None:
    request_id = str(uuid.uuid4())
    first = made(idle_alice, request_id=request_id)
    assert made(idle_alice, request_id=request_id).job_id == first.job_id
    assert len(list(idle_alice.list_jobs())) == 1


def test_same_request_with_another_spec_is_refused(idle_alice: TrainingClient) -> None:
    request_id = str(uuid.uuid4())
    made(idle_alice, request_id=request_id)
    with pytest.raises(RequestIdReused):
        made(idle_alice, SLOW, request_id=request_id)


def test_everything_wrong_with_a_spec_is_told_at_once(idle_alice: TrainingClient) -> None:
    with pytest.raises(JobInvalid) as refused:
        made(idle_alice, json.dumps({"wrong": ["run.batch_size", "stage"]}))
    assert [one.field for one in refused.value.violations] == ["run.batch_size", "stage"]
    assert list(idle_alice.list_jobs()) == []


@pytest.mark.parametrize("spec", ["", " " * ((1 << 20) + 1)])
def test_spec_of_no_size_that_is_taken_is_refused(spec: str, idle_alice: TrainingClient) -> None:
    with pytest.raises(InvalidRequest, match="spec"):
        made(idle_alice, spec)


def test_every_field_that_is_wrong_is_named(idle_alice: TrainingClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        made(idle_alice, "", priority=101, request_id="x" * 65)
    fields = {one.field for one in refused.value.violations}
    assert fields == {"spec", "priority", "request_id"}


def test_quota_is_kept(tmp_path: Path) -> None:
    with (
        training_server(
            tmp_path, max_running=0, change=lambda one: replace(one, max_active_jobs=1)
        ) as served,
        TrainingClient(next(served.tenants)[1]) as client,
    ):
        made(client)
        with pytest.raises(QuotaExceeded, match="limit is 1"):
            made(client)


def test_jobs_of_another_tenant_are_not_there(
    idle_alice: TrainingClient, idle_bob: TrainingClient
) -> None:
    job = made(idle_alice)
    asked = (
        idle_bob.get,
        idle_bob.cancel,
        idle_bob.pause,
        idle_bob.resume,
        idle_bob.delete,
        lambda job_id: list(idle_bob.watch(job_id)),
    )
    for ask in asked:
        with pytest.raises(JobNotFound):
            ask(job.job_id)
    assert list(idle_bob.list_jobs()) == []
    assert idle_alice.get(job.job_id).state == "queued"


@pytest.mark.parametrize("job_id", ["", NO_JOB, "../../etc", "x" * 5000])
def test_job_that_is_none_is_not_found(job_id: str, idle_alice: TrainingClient) -> None:
    with pytest.raises(JobNotFound):
        idle_alice.get(job_id)


def test_caller_without_a_token_is_refused(idle: Served) -> None:
    config = ClientConfig(channel=ChannelConfig(address=idle.server.address), timeout_s=10.0)
    with TrainingClient(config) as client, pytest.raises(TokenRefused):
        list(client.list_jobs())


def test_pages_hold_every_job_newest_first(idle_alice: TrainingClient) -> None:
    jobs = [made(idle_alice).job_id for _ in range(5)]
    listed = [job.job_id for job in idle_alice.list_jobs(ListCall(page_size=2))]
    assert listed == jobs[::-1]


def test_listing_is_filtered_and_without_specs(idle_alice: TrainingClient) -> None:
    made(idle_alice, json.dumps({"name": "night/one"}))
    other = made(idle_alice, json.dumps({"name": "day"}))
    idle_alice.cancel(other.job_id)
    (found,) = idle_alice.list_jobs(ListCall(states=("queued",), name_prefix="night/"))
    assert (found.name, found.spec) == ("night/one", "")


def test_state_that_is_none_is_refused_in_a_listing(idle: Served) -> None:
    request = pb.ListTrainingJobsRequest(states=[pb.TRAINING_JOB_STATE_UNSPECIFIED])
    token = (("authorization", f"Bearer {next(idle.tenants)[1].token}"),)
    with grpc.insecure_channel(idle.server.address) as channel:
        stub = pb_grpc.TrainingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=r"states\[0\]"):
            stub.ListTrainingJobs(request, metadata=token, timeout=10.0)


def test_job_is_watched_to_its_end(alice: TrainingClient) -> None:
    job = made(alice)
    events = list(alice.watch(job.job_id))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    kinds = {type(event.event) for event in events}
    assert kinds == {StateChange, Prepared, JobProgress, JobResult}
    assert events[-1].event == StateChange(state="succeeded", why="")


def test_watch_begins_after_a_number(alice: TrainingClient) -> None:
    job = made(alice)
    events = list(alice.watch(job.job_id))
    assert list(alice.watch(job.job_id, after=3)) == events[3:]
    assert list(alice.watch(job.job_id, after=len(events))) == []


def test_watch_on_one_server_sees_what_another_runs(tmp_path: Path) -> None:
    with (
        training_server(tmp_path, max_running=0) as idle,
        training_server(tmp_path),
        TrainingClient(next(idle.tenants)[1]) as client,
    ):
        job = made(client)
        assert reached(client, job, "succeeded") > 0


def test_watch_goes_on_with_the_next_event_when_a_server_comes_back(
    tmp_path: Path, free_port: int
) -> None:
    with training_server(tmp_path, max_running=0, port=free_port) as first:
        client = TrainingClient(next(first.tenants)[1])
        job = made(client)
        watched = client.watch(job.job_id)
        assert next(watched).number == 1
    with training_server(tmp_path, port=free_port), contextlib.closing(client):
        numbers = [event.number for event in watched]
    assert numbers == list(range(2, len(numbers) + 2))


def test_watch_gives_up_when_no_server_comes_back(tmp_path: Path) -> None:
    with training_server(tmp_path, max_running=0) as first:
        client = TrainingClient(next(first.tenants)[1])
        watched = client.watch(made(client).job_id, patience_s=0.3)
        next(watched)
    with contextlib.closing(client), pytest.raises(Unavailable):
        next(watched)


def test_finished_job_shows_its_result_and_progress(alice: TrainingClient) -> None:
    job = made(alice)
    reached(alice, job, "succeeded")
    found = alice.get(job.job_id)
    assert found.result is not None
    assert found.progress is not None
    assert (found.result.name, found.progress.step, found.progress.loss) == ("huggy", 2, 0.5)
    assert (found.has_ended, found.attempt, found.fault) == (True, 1, None)
    assert found.started_at is not None
    assert found.ended_at is not None
    assert found.created_at <= found.started_at <= found.ended_at


def test_running_job_is_paused_resumed_and_cancelled(alice: TrainingClient) -> None:
    job = made(alice, SLOW)
    reached(alice, job, "running")
    assert alice.pause(job.job_id).wish == "pause"
    reached(alice, job, "paused")
    assert alice.resume(job.job_id).state == "queued"
    alice.cancel(job.job_id)
    *_, last = alice.watch(job.job_id)
    assert isinstance(last.event, StateChange)
    assert last.event.state == "cancelled"


def test_waiting_job_is_cancelled_at_once(idle_alice: TrainingClient) -> None:
    job = made(idle_alice)
    assert idle_alice.cancel(job.job_id).state == "cancelled"
    assert idle_alice.cancel(job.job_id).state == "cancelled"


def test_job_that_succeeded_is_not_run_again(alice: TrainingClient) -> None:
    job = made(alice)
    reached(alice, job, "succeeded")
    for ask in (alice.cancel, alice.pause, alice.resume):
        with pytest.raises(JobStateConflict):
            ask(job.job_id)


def test_job_under_way_is_not_deleted(idle: Served, idle_alice: TrainingClient) -> None:
    job = made(idle_alice)
    with pytest.raises(JobStateConflict):
        idle_alice.delete(job.job_id)
    assert job.job_id not in {job_id for _, job_id in idle.removed}


def test_deleted_job_is_gone_with_its_files(idle: Served, idle_alice: TrainingClient) -> None:
    tenant, config = next(idle.tenants)
    with TrainingClient(config) as client:
        job = made(client)
        client.cancel(job.job_id)
        client.delete(job.job_id)
        assert (tenant, job.job_id) in idle.removed
        with pytest.raises(JobNotFound):
            client.get(job.job_id)


def test_watch_of_a_deleted_job_ends(idle_alice: TrainingClient) -> None:
    job = made(idle_alice)
    watched = idle_alice.watch(job.job_id)
    next(watched)
    idle_alice.pause(job.job_id)
    idle_alice.delete(job.job_id)
    with pytest.raises(JobNotFound):
        list(watched)


def test_watchers_do_not_hold_up_a_drain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with training_server(tmp_path, max_running=0) as served:
            client = TrainingClient(next(served.tenants)[1])
            job = made(client)
            watched = client.watch(job.job_id, patience_s=0.0)
            next(watched)
            waiting = pool.submit(list, watched)
        with pytest.raises(Unavailable):
            waiting.result(20.0)
        client.close()


async def test_asyncio_client_does_the_same(served: Served) -> None:
    async with AsyncTrainingClient(next(served.tenants)[1]) as client:
        created = await client.create(JobCall(spec=QUICK))
        assert created.job is not None
        job_id = created.job.job_id
        numbers = [event.number async for event in client.watch(job_id)]
        assert numbers == list(itertools.islice(itertools.count(1), len(numbers)))
        assert (await client.get(job_id)).state == "succeeded"
        assert [job.job_id async for job in client.list_jobs()] == [job_id]
        for ask in (client.cancel, client.pause, client.resume):
            with pytest.raises(JobStateConflict):
                await ask(job_id)
        await client.delete(job_id)
        with pytest.raises(JobNotFound):
            await client.get(job_id)
