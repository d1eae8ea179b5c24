"""Run as a program: the part of a training server that owns jobs, without its port.

``python -m diptych.bench.fault_owner SETTINGS KIND``: the YAML file and the kind of worker. Says
``ready`` on its output, and hands its jobs back on SIGTERM.
"""

import signal
import sys
import threading
from pathlib import Path

from prometheus_client import CollectorRegistry

from diptych.settings import child_environment
from diptych.telemetry.logging import configure_logging
from diptych.telemetry.training_metrics import TrainingMetrics
from diptych.training.launchers.local import LocalLauncher
from diptych.training.loading import load_training
from diptych.training.settings import load_settings

__all__ = ["WORKER", "main"]

WORKER = "diptych.bench.fault_worker"


def main(arguments: list[str] | None = None) -> int:
    """Own jobs until SIGTERM and return the exit status."""
    config, kind = sys.argv[1:] if arguments is None else arguments
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = load_settings(Path(config))
    configure_logging(settings.log_level)
    launcher = LocalLauncher(environment=child_environment(), worker=("-m", WORKER, kind))
    loaded = load_training(settings, TrainingMetrics(CollectorRegistry()), launcher=launcher)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ended.wait()
    loaded.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
