"""Where a job's checkpoints lie, and how what it trained reaches the stores it is served from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diptych.adapters.bundle import to_bytes
from diptych.adapters.registry import Registry, utc_now
from diptych.adapters.summary import summarise
from diptych.digest import Digest
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs
from diptych.training.export import export_adapter, export_expert
from diptych.training.names import open_adapters
from diptych.training.spec import JobSpec
from diptych.training.task import AttemptFolder, WorkerTask
from diptych.training.trainables.trained_expert import TrainedExpert

__all__ = ["checkpoint_blobs", "open_registry", "publish"]


def checkpoint_blobs(task: WorkerTask, folder: AttemptFolder) -> BlobStore:
    """Return where all attempts of a job keep their checkpoints."""
    if task.checkpoint_url is None:
        return LocalBlobs(folder.checkpoints)
    store, prefix = _bucket(task.checkpoint_url, task)
    return S3Blobs(store, prefix=f"{prefix}/{task.tenant}/{task.job_id}")


def open_registry(task: WorkerTask) -> Registry:
    """Return the registry of adapters that inference serves from."""
    home = Path(task.home).expanduser().absolute()
    return open_adapters(home, url=task.adapter_url, s3_endpoint=task.s3_endpoint)


def publish(
    trained: Sequence[TrainedExpert], spec: JobSpec, task: WorkerTask, registry: Registry
) -> Mapping[str, str]:
    """Bring what was trained to where it is served from; return digests by expert.

    An adapter gets no name here: that is the owner's to move, once the job has succeeded.

    Args:
        trained: All of the job's experts with their final weights, base first.
        spec: The job's.
        task: Whose it is, and where stores are.
        registry: For adapters.

    Raises:
        AdapterInvalid: What was trained is not finite.
        CheckpointInvalid: Likewise.
        StoreFull: There is no room.
        SourceUnavailable: A store does not answer.
    """
    if spec.method == "full":
        experts_dir = Path(task.home).expanduser().absolute() / "experts"
        exported = {
            one.facts.plan.expert: export_expert(
                one, spec, experts_dir=experts_dir, tenant=task.tenant
            )
            for one in trained
        }
        return {expert: str(one.digest) for expert, one in exported.items()}
    adapter = export_adapter(trained, spec)
    bundle = to_bytes(adapter)
    card = summarise(
        adapter,
        digest=Digest.of_bytes(bundle),
        size_bytes=len(bundle),
        source=f"job {task.job_id}",
        created_at=utc_now(),
    )
    digest = registry.keep(bundle, card, tenant=task.tenant)
    return {one.facts.plan.expert: str(digest) for one in trained}


def _bucket(url: str, task: WorkerTask) -> tuple[S3Store, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(bucket, S3Config(endpoint_url=task.s3_endpoint)), prefix.strip("/")
