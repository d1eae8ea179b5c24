"""How ``python -m`` starts a service: flags over variables over a file, and its exit status."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from diptych.errors import DiptychError, SettingInvalid

__all__ = ["EXIT_BAD_SETTINGS", "EXIT_FAILED", "run_service"]

EXIT_FAILED: Final = 1
EXIT_BAD_SETTINGS: Final = 64
"""sysexits' EX_USAGE: starting again with the same settings is of no use."""

_NONE: Final = "none"

Given = Mapping[str, str | int | None]


def run_service(
    argv: Sequence[str] | None,
    run: Callable[[Path | None, Given], None],
    *,
    program: str,
    description: str | None,
    integers: Sequence[str],
    texts: Sequence[str],
) -> int:
    """Call ``run`` with the settings' file and what the flags say; return the exit status.

    Each of ``integers`` and ``texts`` is a setting of the service and, with dashes, its flag;
    ``none`` is None.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    for name in integers:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_integer)
    for name in texts:
        parser.add_argument(f"--{name.replace('_', '-')}")
    arguments = vars(parser.parse_args(argv))
    config = arguments.pop("config")
    given = {
        name: None if value == _NONE else value
        for name, value in arguments.items()
        if value is not None
    }
    try:
        run(config, given)
    except SettingInvalid as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_SETTINGS
    except DiptychError as error:
        sys.stderr.write(f"{error.reason}: {error}\n")
        return EXIT_FAILED
    return 0


def _integer(text: str) -> int | str:
    return text if text == _NONE else int(text)
