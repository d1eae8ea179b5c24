"""``python -m diptych.embedding_cache``: keep and serve embeddings until SIGTERM."""

import sys
from collections.abc import Sequence

from diptych.embedding_cache.server import run_server
from diptych.embedding_cache.settings import load_settings
from diptych.rpc.command import run_service

INTEGERS = ("port", "metrics_port", "health_port")
TEXTS = ("host", "base", "refiner", "device", "dtype", "dir", "store")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as flags, ``DIPTYCH_*`` variables and the file say; return the exit status."""
    return run_service(
        argv,
        lambda config, given: run_server(load_settings(config, {"cache": given})),
        program="python -m diptych.embedding_cache",
        description=__doc__,
        integers=INTEGERS,
        texts=TEXTS,
    )


if __name__ == "__main__":
    sys.exit(main())
