"""Single flight: many threads that want one thing cause it to be made once."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Flights"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Flights(Generic[K, R]):
    """What is being made now, by key.

    A result is shared by those who asked while it was made, and forgotten then: ``make`` looks
    first into the cache that it fills, since another flight may just have ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Future[R]] = {}

    def __len__(self) -> int:
        """Return how many things are being made."""
        return len(self._flights)

    def run(self, key: K, make: Callable[[], R]) -> R:
        """Return what ``make`` returns, or what another caller's makes for ``key`` right now.

        Whatever ``make`` raises is raised to all who wait for it; the next to ask tries again.
        """
        with self._lock:
            flight = self._flights.get(key)
            if is_leader := flight is None:
                flight = self._flights[key] = Future()
        if not is_leader:
            return flight.result()
        try:
            result = make()
        except BaseException as error:
            self._end(key)
            flight.set_exception(error)
            raise
        self._end(key)
        flight.set_result(result)
        return result

    def _end(self, key: K) -> None:
        with self._lock:
            del self._flights[key]
