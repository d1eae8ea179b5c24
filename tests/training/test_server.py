"""The service comes up, answers probes and scrapes, and hands its jobs back in the end."""

import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobCall, StateChange
from diptych.errors import SettingInvalid
from diptych.training.server import BackgroundTraining
from diptych.training.service import TRAINING_SERVICE_NAME
from diptych.training.settings import Settings, TrainingSettings
from support.training_server import Served, training_server

RUNNING = StateChange(state="running", why="")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with training_server(tmp_path_factory.mktemp("served")) as served:
        yield served


def test_probe_hears_that_it_serves(served: Served) -> None:
    with grpc.insecure_channel(served.server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=TRAINING_SERVICE_NAME))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_scrape_reads_the_supervisor(served: Served) -> None:
    with TrainingClient(next(served.tenants)[1]) as client:
        job = client.create(JobCall(spec='{"steps": 10000, "step_s": 0.02}')).job
        assert job is not None
        watched = client.watch(job.job_id)
        next(one for one in watched if one.event == RUNNING)
        url = f"http://127.0.0.1:{served.server.ports.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        client.cancel(job.job_id)
        list(watched)
    assert 'diptych_training_jobs{state="running"} 1.0' in text
    assert 'diptych_build_info{version="1"} 1.0' in text


def test_job_under_way_is_queued_again_when_the_server_ends(tmp_path: Path) -> None:
    with training_server(tmp_path) as served, TrainingClient(next(served.tenants)[1]) as client:
        config = client._config
        job = client.create(JobCall(spec='{"steps": 10000, "step_s": 0.02}')).job
        assert job is not None
        next(one for one in client.watch(job.job_id) if one.event == RUNNING)
    with training_server(tmp_path, max_running=0) as served:
        channel = replace(config.channel, address=served.server.address)
        with TrainingClient(replace(config, channel=channel)) as client:
            left = client.get(job.job_id)
    assert (left.state, left.num_faults) == ("queued", 0)


def test_ledger_that_is_none_ends_it(tmp_path: Path) -> None:
    own = TrainingSettings(port=0, metrics_port=None, ledger_url=SecretStr("mysql://x"))
    with pytest.raises(SettingInvalid, match="ledger_url"):
        BackgroundTraining(Settings(home=tmp_path, training=own)).start(timeout_s=60.0)


def test_port_in_use_ends_it(served: Served, tmp_path: Path) -> None:
    own = TrainingSettings(port=served.server.ports.port, metrics_port=None)
    with pytest.raises(SettingInvalid, match="port"):
        BackgroundTraining(Settings(home=tmp_path, training=own)).start(timeout_s=60.0)
