"""``python -m diptych.inference``: serve pictures until SIGTERM."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diptych.errors import DiptychError, SettingInvalid
from diptych.inference.allocator import set_heap_up
from diptych.inference.server import run_server
from diptych.inference.settings import load_settings

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 64
"""sysexits' EX_USAGE: starting again with the same settings is of no use."""

INTEGERS = ("port", "metrics_port", "health_port")
TEXTS = ("host", "base", "refiner", "refiner_peer", "device", "dtype")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as flags, ``DIPTYCH_*`` variables and the file say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diptych.inference", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    for name in INTEGERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    for name in TEXTS:
        parser.add_argument(f"--{name.replace('_', '-')}")
    arguments = vars(parser.parse_args(argv))
    config = arguments.pop("config")
    own = {name: _value(given) for name, given in arguments.items() if given is not None}
    try:
        run_server(load_settings(config, {"inference": own}))
    except SettingInvalid as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_SETTINGS
    except DiptychError as error:
        sys.stderr.write(f"{error.reason}: {error}\n")
        return EXIT_FAILED
    return 0


def _value(given: str | int) -> str | int | None:
    return None if given == "none" else given


if __name__ == "__main__":
    set_heap_up()
    sys.exit(main())
