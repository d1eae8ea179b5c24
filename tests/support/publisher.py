"""Publish made-up adapters under few names, as many others do at once; also a program
(``python -m support.publisher`` in ``tests``)."""

import sys
from pathlib import Path

from diptych.adapters.registry import Registry
from diptych.digest import Digest
from support.shelves import in_folder, published

__all__ = ["bundle_of", "is_whole", "publish_all"]

_SIZE_BYTES = 300_000
"""More than a write, fewer than a second of them."""


def bundle_of(writer: int, number: int) -> bytes:
    """Return bytes that no other writer publishes, and that end as they begin."""
    mark = f"{writer}-{number};".encode()
    return mark + bytes(_SIZE_BYTES) + mark


def is_whole(bundle: bytes) -> bool:
    """Tell whether ``bundle`` is one of ``bundle_of``, from its beginning to its end."""
    mark, _, _ = bundle.partition(b";")
    return bundle == mark + b";" + bytes(_SIZE_BYTES) + mark + b";"


def publish_all(registry: Registry, writer: int, *, num_bundles: int) -> list[Digest]:
    """Publish some adapters under the names ``a`` and ``b`` and check each name after it."""
    digests = []
    for number in range(num_bundles):
        bundle, name = bundle_of(writer, number), "ab"[number % 2]
        digests.append(published(registry, name, bundle, replace=True))
        with registry.hold(registry.resolve(name)) as path:
            assert is_whole(path.read_bytes())
    return digests


if __name__ == "__main__":
    publish_all(in_folder(Path(sys.argv[1])), int(sys.argv[2]), num_bundles=int(sys.argv[3]))
