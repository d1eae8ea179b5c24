"""Run as a program: adds one to a number in a folder of refs, many times."""

import sys
from pathlib import Path

from diptych.storage.local_refs import LocalRefs

__all__: list[str] = []


def count(folder: Path, num_times: int) -> None:
    """Add one, beginning again whenever another was first."""
    refs = LocalRefs(folder)
    while num_times:
        ref = refs.read("n")
        value = int(ref.value) + 1 if ref else 1
        if refs.write("n", b"%d" % value, expected=ref.version if ref else None):
            num_times -= 1


if __name__ == "__main__":
    count(Path(sys.argv[1]), int(sys.argv[2]))
