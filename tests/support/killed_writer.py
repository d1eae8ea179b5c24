"""Run as a program: begins to put a blob into a folder, says so, and never ends by itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

from diptych.storage.local import LocalBlobs

__all__: list[str] = []


def pieces() -> Iterator[bytes]:
    """Yield one piece, then wait for a line that nobody writes."""
    yield b"half"
    sys.stdout.write("writing\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    LocalBlobs(Path(sys.argv[1])).put(sys.argv[2], pieces())
