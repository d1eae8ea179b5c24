"""Where checkpoints and adapters of a job lie."""

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.storage.local import LocalBlobs
from diptych.storage.s3_blobs import S3Blobs
from diptych.training.publishing import checkpoint_blobs, open_registry, publish
from diptych.training.spec import AdapterSpec, JobSpec
from diptych.training.task import AttemptFolder, WorkerTask
from diptych.training.trainables.loading import load_trainable
from diptych.training.trainables.trained_expert import TrainedExpert
from support.looping import PLAN, a_job

SPEC = a_job(adapter=AdapterSpec(rank=2))


def a_task(home: Path) -> WorkerTask:
    return WorkerTask(
        job_id="7", tenant="lab", attempt=1, spec="", home=str(home), cache_address="here:1"
    )


def an_expert(spec: JobSpec, home: Path) -> TrainedExpert:
    return load_trainable(spec, PLAN, device="cpu", cache_dir=home)


def test_checkpoints_lie_in_the_jobs_folder(tmp_path: Path) -> None:
    folder = AttemptFolder(job_dir=tmp_path / "job", attempt=3)
    blobs = checkpoint_blobs(a_task(tmp_path), folder)
    assert isinstance(blobs, LocalBlobs)
    assert blobs.location == str(tmp_path / "job" / "checkpoints")


def test_checkpoints_in_a_bucket_are_told_apart_by_tenant_and_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    task = replace(a_task(tmp_path), checkpoint_url="s3://bucket/some/where/")
    blobs = checkpoint_blobs(task, AttemptFolder(job_dir=tmp_path, attempt=1))
    assert isinstance(blobs, S3Blobs)
    assert blobs.location == "s3://bucket/some/where/lab/7"


def test_an_adapter_is_published_without_a_name(tmp_path: Path) -> None:
    task = a_task(tmp_path)
    registry = open_registry(task)
    found = publish([an_expert(SPEC, tmp_path)], SPEC, task, registry)
    assert found.keys() == {"base"}
    digest = registry.resolve(found["base"], tenant="lab")
    card = registry.card(digest, tenant="lab")
    assert (card.source, card.max_rank, card.timestep_range) == ("job 7", 2, (350, 999))
    assert registry.pointers("lab") == {}


def test_publishing_again_gives_the_same_digest(tmp_path: Path) -> None:
    task, registry = a_task(tmp_path), open_registry(a_task(tmp_path))
    first = publish([an_expert(SPEC, tmp_path)], SPEC, task, registry)
    assert publish([an_expert(SPEC, tmp_path)], SPEC, task, registry) == first
