"""``python -m diptych.inference``: serve pictures until SIGTERM."""

import sys
from collections.abc import Sequence

from diptych.inference.allocator import set_heap_up
from diptych.inference.server import run_server
from diptych.inference.settings import load_settings
from diptych.rpc.command import run_service

INTEGERS = ("port", "metrics_port", "health_port")
TEXTS = ("host", "base", "refiner", "refiner_peer", "device", "dtype")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as flags, ``DIPTYCH_*`` variables and the file say; return the exit status."""
    return run_service(
        argv,
        lambda config, given: run_server(load_settings(config, {"inference": given})),
        program="python -m diptych.inference",
        description=__doc__,
        integers=INTEGERS,
        texts=TEXTS,
    )


if __name__ == "__main__":
    set_heap_up()
    sys.exit(main())
