"""Where a manifest may make this process read: everywhere for a user, little on a server."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["EVERYWHERE", "Places"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What may be read on a manifest's behalf; a server names folders and buckets."""

    roots: tuple[Path, ...] | None = None
    """Folders that local paths must not leave, links followed; None allows any."""
    buckets: tuple[str, ...] | None = None
    """``bucket`` or ``bucket/prefix`` of S3; None allows any."""
    endpoints: tuple[str, ...] | None = None
    """Addresses of S3 other than AWS that a source may name; None allows any."""
    hub: bool = True
    """Whether names on Hugging Face's hub may be loaded."""
    urls: bool = True
    """Whether urls in tables may be fetched."""

    def allows_path(self, path: Path) -> bool:
        """Return whether ``path``, its links followed, lies in a root."""
        if self.roots is None:
            return True
        found = path.resolve()
        return any(found.is_relative_to(root.resolve()) for root in self.roots)

    def allows_bucket(self, bucket: str, prefix: str) -> bool:
        """Return whether objects of ``bucket`` below ``prefix`` may be read."""
        if self.buckets is None:
            return True
        whole = f"{bucket}/{prefix}"
        return any(whole.startswith(f"{allowed.rstrip('/')}/") for allowed in self.buckets)

    def allows_endpoint(self, url: str | None) -> bool:
        """Return whether S3 may be asked at ``url``; None is AWS."""
        return url is None or self.endpoints is None or url in self.endpoints


EVERYWHERE = Places()
"""For a manifest of the user's own."""
