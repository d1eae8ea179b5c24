"""How far a warm-up is, told as it goes; any thread may add to it."""

import threading
from collections.abc import Callable

__all__ = ["Progress", "Tally"]

Progress = Callable[[int, int, int, int], None]
"""Hears of embeddings done, in all, encoded and failed."""


class Tally:
    """Counts embeddings: there already, encoded here, or not to be had."""

    def __init__(self, num_total: int, progress: Progress) -> None:
        self.num_total, self.num_present, self.num_encoded = num_total, 0, 0
        self.failures: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._progress = progress

    def present(self, count: int) -> None:
        """Add embeddings that were there."""
        with self._lock:
            self.num_present += count
            self._tell()

    def encoded(self, count: int) -> None:
        """Add embeddings that were made here and last."""
        with self._lock:
            self.num_encoded += count
            self._tell()

    def failed(self, item: str, problem: str) -> None:
        """Add one that cannot be made."""
        with self._lock:
            self.failures.append((item, problem))
            self._tell()

    def _tell(self) -> None:
        done = self.num_present + self.num_encoded
        self._progress(done, self.num_total, self.num_encoded, len(self.failures))
