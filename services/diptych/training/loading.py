"""From settings to what calls are answered from and jobs are run with."""

import os
import random
import shutil
import socket
import time
import uuid
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from diptych.adapters.registry import Registry
from diptych.datasets.places import Places
from diptych.settings import child_environment
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.s3_blobs import S3Blobs
from diptych.telemetry.training_metrics import TrainingMetrics
from diptych.training.attempt_files import job_dir
from diptych.training.checking import JobChecks
from diptych.training.counts import Counts, reading
from diptych.training.decisions import Patience, Retries
from diptych.training.job_run import Means
from diptych.training.launchers.local import LocalLauncher
from diptych.training.ledger.jobs import Job
from diptych.training.ledger.opening import open_ledger
from diptych.training.names import ResultNames, open_adapters
from diptych.training.ports import Launcher
from diptych.training.server import Loaded
from diptych.training.service import Hosting
from diptych.training.settings import Settings
from diptych.training.spec_text import parse_job
from diptych.training.supervisor import Supervisor
from diptych.training.task import WorkerTask

__all__ = ["load_training", "remove_files", "server_places", "task_of"]

S3: Final = "s3://"


def load_training(
    settings: Settings, metrics: TrainingMetrics, *, launcher: Launcher | None = None
) -> Loaded:
    """Open the ledger and begin to own jobs.

    Raises:
        SettingInvalid: The ledger's url names no database, or a folder cannot be made.
        LedgerUnavailable: The database does not answer.
    """
    own, home = settings.training, settings.home.expanduser().absolute()
    launcher = launcher or LocalLauncher(environment=child_environment())
    adapters = open_adapters(home, url=own.adapters_store, s3_endpoint=own.s3_endpoint)
    ledger = open_ledger(settings.ledger_url())
    counts = Counts(metrics)
    means = Means(
        claims=ledger,
        launcher=launcher,
        names=ResultNames(adapters),
        home=home,
        task_of=partial(task_of, settings),
        read_spec=lambda text: parse_job(text.encode(), folder=home),
        patience=Patience(
            lease_s=own.lease_s,
            heartbeat_s=own.heartbeat_timeout_s,
            grace_s=own.grace_s,
            wish_s=2 * own.heartbeat_timeout_s,
        ),
        retries=Retries(max_attempts=own.max_attempts, backoff_s=own.retry_backoff_s),
        clock=time.monotonic,
        chance=random.Random(),  # noqa: S311 - spreads retries
        on_told=counts,
    )
    supervisor = Supervisor(means, owner=_owner(), max_running=own.max_running)
    supervisor.start()

    def close() -> None:
        supervisor.stop()
        ledger.close()

    hosting = Hosting(
        jobs=ledger,
        check=_checks(settings, adapters, launcher),
        remove_files=partial(remove_files, settings),
        hurry=supervisor.hurry,
        max_active_jobs=own.max_active_jobs,
        max_spec_bytes=own.max_spec_bytes,
    )
    return Loaded(
        hosting=hosting,
        version=_version(),
        read=lambda: reading(supervisor.runs(), counts),
        begin_drain=supervisor.begin_drain,
        close=close,
    )


def _checks(settings: Settings, adapters: Registry, launcher: Launcher) -> JobChecks:
    home = settings.home.expanduser().absolute()
    return JobChecks(
        folder=settings.training.dataset_dir or home,
        places=server_places(settings),
        model_places=model_places(settings),
        home=home,
        adapters=adapters,
        max_nodes=launcher.max_nodes,
        max_devices=launcher.num_devices(settings.training.device),
    )


def server_places(settings: Settings) -> Places:
    """Return what a job of a caller may name: folders and buckets of the settings, no more."""
    own = settings.training
    return Places(
        roots=() if own.dataset_dir is None else (own.dataset_dir,),
        buckets=tuple(one.removeprefix(S3) for one in own.dataset_prefixes),
        endpoints=() if own.s3_endpoint is None else (own.s3_endpoint,),
        hub=False,
        urls=False,
    )


def model_places(settings: Settings) -> Places:
    """Return where the models of a caller's job may lie."""
    own = settings.training
    return Places(
        roots=() if own.model_dir is None else (own.model_dir,),
        buckets=tuple(one.removeprefix(S3) for one in own.model_prefixes),
        hub=own.model_hub,
    )


def task_of(settings: Settings, job: Job) -> WorkerTask:
    """Return what the worker of a job's latest attempt is to do."""
    own = settings.training
    return WorkerTask(
        job_id=job.id,
        tenant=job.tenant,
        attempt=job.attempt,
        spec=job.spec,
        home=str(settings.home.expanduser().absolute()),
        cache_address=own.cache_address,
        cache_token_file=None
        if own.cache_token_file is None
        else str(own.cache_token_file.absolute()),
        device=own.device,
        checkpoint_url=own.checkpoint_url,
        adapter_url=own.adapters_store,
        s3_endpoint=own.s3_endpoint,
        dataset_dir=None if own.dataset_dir is None else str(own.dataset_dir.absolute()),
        dataset_prefixes=own.dataset_prefixes,
        grace_s=own.grace_s,
    )


def remove_files(settings: Settings, tenant: str, job_id: str) -> None:
    """Remove a job's folder and its checkpoints in the bucket, as far as there are any.

    Raises:
        SourceUnavailable: The bucket does not answer; what is left there stays.
    """
    own, home = settings.training, settings.home.expanduser().absolute()
    shutil.rmtree(job_dir(home, tenant=tenant, job_id=job_id), ignore_errors=True)
    if own.checkpoint_url is not None:
        bucket, _, prefix = own.checkpoint_url.removeprefix(S3).partition("/")
        store = S3Store(bucket, S3Config(endpoint_url=own.s3_endpoint))
        blobs = S3Blobs(store, prefix=f"{prefix.strip('/')}/{tenant}/{job_id}")
        for blob in blobs.listing(""):
            blobs.delete(blob.key)


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def _version() -> str:
    try:
        return version("diptych")
    except PackageNotFoundError:
        return "0+source"
