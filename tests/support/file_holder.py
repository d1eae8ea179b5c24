"""Run as a program: holds a file of a disk tier, says so, and never lets go by itself."""

import sys
from pathlib import Path

from diptych.digest import Digest
from diptych.storage.cas import ContentStore
from diptych.storage.local import LocalBlobs
from diptych.storage.tiers import DiskTier

__all__: list[str] = []


def hold(tier: DiskTier, digest: Digest, content: ContentStore) -> None:
    """Hold the file until a line comes."""
    with tier.hold(digest, content):
        sys.stdout.write("holding\n")
        sys.stdout.flush()
        sys.stdin.readline()


if __name__ == "__main__":
    tier_, blobs_, hex_, limit_bytes = sys.argv[1:]
    hold(
        DiskTier(Path(tier_), limit_bytes=int(limit_bytes)),
        Digest(hex=hex_),
        ContentStore(LocalBlobs(Path(blobs_)), namespace="default"),
    )
