"""Settings become what jobs are run with; no torch comes with it."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from diptych.clients.config import ClientConfig
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobCall
from diptych.errors import JobInvalid
from diptych.rpc.channel import ChannelConfig
from diptych.storage.s3_blobs import S3Blobs
from diptych.training.attempt_files import job_dir
from diptych.training.ledger.jobs import NewJob
from diptych.training.ledger.opening import open_ledger
from diptych.training.loading import model_places, remove_files, server_places, task_of
from diptych.training.server import BackgroundTraining
from diptych.training.settings import Settings, TrainingSettings
from support.buckets import BUCKET, REGION, s3_bucket, s3_server

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft")


def settings(home: Path, **own: object) -> Settings:
    fixed = {"port": 0, "metrics_port": None, "max_running": 0}
    return Settings(home=home, training=TrainingSettings(**fixed | own))  # type: ignore[arg-type]


def test_control_plane_imports_no_torch() -> None:
    program = f"import sys, diptych.training.loading; print(set({HEAVY}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_task_says_where_everything_is(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    job = ledger.create(NewJob(tenant="lab", name="huggy", spec="{}"))
    ledger.close()
    task = task_of(
        settings(
            tmp_path,
            device="cpu",
            checkpoint_url="s3://bucket/checkpoints",
            adapters_store="s3://bucket/adapters",
            dataset_dir=tmp_path / "data",
            grace_s=7.0,
        ),
        job,
    )
    assert (task.job_id, task.tenant, task.spec) == (job.id, "lab", "{}")
    assert (task.home, task.device, task.grace_s) == (str(tmp_path), "cpu", 7.0)
    assert task.checkpoint_url == "s3://bucket/checkpoints"
    assert task.adapter_url == "s3://bucket/adapters"
    assert (task.dataset_dir, task.dataset_prefixes) == (str(tmp_path / "data"), ())


def test_server_without_a_dataset_folder_reads_no_paths(tmp_path: Path) -> None:
    places = server_places(settings(tmp_path))
    assert not places.allows_path(tmp_path)
    assert not places.allows_bucket("bucket", "prefix/")
    assert (places.hub, places.urls) == (False, False)


def test_server_reads_what_its_settings_name(tmp_path: Path) -> None:
    places = server_places(
        settings(tmp_path, dataset_dir=tmp_path, dataset_prefixes=("s3://bucket/data",))
    )
    assert places.allows_path(tmp_path / "a")
    assert places.allows_bucket("bucket", "data/a")


def test_models_come_from_the_hub_and_from_folders_that_settings_name(tmp_path: Path) -> None:
    places = model_places(settings(tmp_path))
    assert (places.hub, places.allows_path(tmp_path)) == (True, False)
    assert not places.allows_bucket("bucket", "model")
    places = model_places(
        settings(
            tmp_path, model_dir=tmp_path, model_hub=False, model_prefixes=("s3://bucket/models",)
        )
    )
    assert (places.hub, places.allows_path(tmp_path / "a")) == (False, True)
    assert places.allows_bucket("bucket", "models/a")


def test_files_of_a_job_go_with_it(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, tenant="lab", job_id="j")
    (folder / "checkpoints").mkdir(parents=True)
    other = job_dir(tmp_path, tenant="lab", job_id="k")
    other.mkdir()
    for _ in range(2):
        remove_files(settings(tmp_path), "lab", "j")
    assert (folder.exists(), other.exists()) == (False, True)


def test_checkpoints_in_a_bucket_go_with_their_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with s3_server() as url:
        store = s3_bucket(url).store
        kept, gone = (S3Blobs(store, prefix=f"checkpoints/lab/{job}") for job in "kj")
        for blobs in (kept, gone):
            blobs.put("a", [b"x"])
        own = settings(tmp_path, checkpoint_url=f"s3://{BUCKET}/checkpoints", s3_endpoint=url)
        remove_files(own, "lab", "j")
        assert [one.key for one in kept.listing("")] == ["a"]
        assert list(gone.listing("")) == []


SPEC = """
name: huggy
model: {source: nano/base-single}
run: {num_steps: 4}
dataset: {datasets: [{id: a, source: {type: folder, path: x}}]}
"""


def test_service_of_the_settings_checks_and_keeps_jobs(tmp_path: Path) -> None:
    url = SecretStr(f"sqlite:///{tmp_path / 'own.sqlite'}")
    (tmp_path / "x").mkdir()
    server = BackgroundTraining(settings(tmp_path, dataset_dir=tmp_path, ledger_url=url))
    server.start(timeout_s=60.0)
    try:
        config = ClientConfig(channel=ChannelConfig(address=server.address), timeout_s=60.0)
        with TrainingClient(config) as client:
            created = client.create(JobCall(spec=SPEC))
            with pytest.raises(JobInvalid, match="rank"):
                client.create(JobCall(spec=f"{SPEC}adapter: {{rank: 0}}"))
    finally:
        server.stop()
    assert created.job is not None
    assert created.estimate.num_steps == 4
