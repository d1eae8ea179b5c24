"""The training service over loopback, its ledger a file, its workers fake, for many tenants."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diptych.clients.config import ClientConfig
from diptych.errors import FieldViolation, JobInvalid
from diptych.rpc.channel import ChannelConfig
from diptych.telemetry.training_metrics import TrainingMetrics
from diptych.training.counts import Counts, reading
from diptych.training.estimate import Estimate
from diptych.training.ledger.opening import open_ledger
from diptych.training.ports import Checked
from diptych.training.server import BackgroundTraining, Loaded
from diptych.training.service import Hosting
from diptych.training.settings import Settings, TrainingSettings
from diptych.training.supervisor import Supervisor
from support.owned_jobs import means

__all__ = ["ESTIMATE", "Served", "check", "training_server"]

ESTIMATE: Final = Estimate(
    experts=(),
    peak_memory_bytes=1,
    disk_bytes=2,
    num_trained_parameters=3,
    num_steps=4,
    num_images=4,
    seconds=5.5,
)
TENANTS: Final = tuple(f"tenant-{number}" for number in range(100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server."""

    server: BackgroundTraining
    tenants: Iterator[tuple[str, ClientConfig]]
    """Each once: those that have no jobs yet, and how to call for them."""
    removed: list[tuple[str, str]]
    """Jobs whose files were removed."""


def check(text: str, *, tenant: str) -> Checked:
    """Take any JSON object but one with ``wrong``, whose items it names."""
    spec = json.loads(text)
    if wrong := spec.get("wrong"):
        raise JobInvalid([FieldViolation(field=one, description="is wrong") for one in wrong])
    return Checked(name=spec.get("name", "huggy"), text=text, estimate=ESTIMATE)


@contextlib.contextmanager
def training_server(
    folder: Path,
    *,
    max_running: int = 1,
    port: int = 0,
    change: Callable[[Hosting], Hosting] = lambda one: one,
) -> Iterator[Served]:
    """Serve until the block ends; several may share ``folder`` and so its ledger."""
    removed: list[tuple[str, str]] = []

    def load(settings: Settings, metrics: TrainingMetrics) -> Loaded:
        ledger, counts = open_ledger(settings.ledger_url()), Counts(metrics)
        made = means(ledger, folder, noted=counts)
        owner = f"server {id(ledger)}"
        supervisor = Supervisor(made, owner=owner, max_running=max_running, claim_every_s=0.05)
        supervisor.start()
        hosting = Hosting(
            jobs=ledger,
            check=check,
            remove_files=lambda tenant, job_id: removed.append((tenant, job_id)),
            hurry=supervisor.hurry,
            poll_s=0.02,
        )

        def close() -> None:
            supervisor.stop()
            ledger.close()

        return Loaded(
            hosting=change(hosting),
            version="1",
            read=lambda: reading(supervisor.runs(), counts),
            begin_drain=supervisor.begin_drain,
            close=close,
        )

    folder.mkdir(parents=True, exist_ok=True)
    tokens = folder / "tokens"
    lines = (f"{one} {hashlib.sha256(f'token of {one}'.encode()).hexdigest()}" for one in TENANTS)
    tokens.write_text("\n".join(lines))
    own = TrainingSettings(port=port, metrics_port=0, auth_tokens_file=tokens, grace_s=5.0)
    server = BackgroundTraining(Settings(home=folder, training=own), load)
    server.start(timeout_s=30.0)
    try:
        channel = ChannelConfig(address=server.address, max_attempts=1)
        config = ClientConfig(channel=channel, timeout_s=30.0)
        tenants = ((one, replace(config, token=f"token of {one}")) for one in TENANTS)
        yield Served(server=server, tenants=tenants, removed=removed)
    finally:
        server.stop()
