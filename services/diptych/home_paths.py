"""Paths as users write them, with ``~`` for a home."""

from pathlib import Path

__all__ = ["at_home"]


def at_home(text: str) -> Path:
    """Return ``text`` as a path: ``~`` and ``~user`` become homes, where there are such users."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
