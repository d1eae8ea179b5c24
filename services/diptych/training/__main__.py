"""``python -m diptych.training``: take jobs, run them and answer for them until SIGTERM."""

import sys
from collections.abc import Sequence

from diptych.rpc.command import run_service
from diptych.training.server import run_server
from diptych.training.settings import load_settings

INTEGERS = ("port", "metrics_port", "health_port", "max_running")
TEXTS = ("host", "ledger_url", "cache_address", "device", "dataset_dir", "adapters_store")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as flags, ``DIPTYCH_*`` variables and the file say; return the exit status."""
    return run_service(
        argv,
        lambda config, given: run_server(load_settings(config, {"training": given})),
        program="python -m diptych.training",
        description=__doc__,
        integers=INTEGERS,
        texts=TEXTS,
    )


if __name__ == "__main__":
    sys.exit(main())
