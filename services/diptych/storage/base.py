"""What this package asks of an object store."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["ObjectStore", "StoredObject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object as a listing shows it; ``etag`` changes when its content does."""

    key: str
    size_bytes: int
    etag: str
    modified_s: float = field(default=0.0, compare=False)
    """When it was written, in seconds since 1970 by the store's clock."""


class ObjectStore(Protocol):
    """A bucket that can be listed and read; implementations are safe to use from many threads."""

    @property
    def location(self) -> str:
        """What errors and logs call this bucket, such as ``s3://weights``."""

    def list_objects(self, prefix: str) -> list[StoredObject]:
        """Return the objects whose keys begin with ``prefix``, in order of their keys.

        Raises:
            ObjectNotFound: there is no such bucket.
            SourceUnavailable: the store does not answer.
        """

    def download(self, stored: StoredObject, path: Path) -> None:
        """Write exactly the content that was listed to ``path``, which must not exist.

        Raises:
            ObjectNotFound: the object is gone.
            SourceUnavailable: the store does not answer, or the content is not what was listed.
        """
