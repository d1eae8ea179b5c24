"""The book of open calls: who is in, and whether one more may come in."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diptych.errors import Draining, EngineFault
from diptych.inference.admission import CostModel, Demand, admit
from diptych.inference.call import Call, Image
from diptych.inference.route import Route
from diptych.inference.trajectory import ImageRequest, Listener, Queued

__all__ = ["Book"]


class Book:
    """Open calls; the only state that callers' threads and the engine's thread share."""

    def __init__(self, *, costs: CostModel, max_waiting: int, clock: Callable[[], float]) -> None:
        self._costs = costs
        self._max_waiting = max_waiting
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[Call, None] = {}
        self._numbers = itertools.count()
        self._draining = False
        self._fault: EngineFault | None = None

    @property
    def draining(self) -> bool:
        """Return whether new requests are refused."""
        return self._draining

    @property
    def fault(self) -> EngineFault | None:
        """Return what ended the engine's thread, if anything did."""
        return self._fault

    def close_door(self, fault: EngineFault | None = None) -> None:
        """Refuse all requests from now on, because of ``fault`` or to drain."""
        with self._lock:
            self._draining = True
            self._fault = self._fault or fault

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the door as it is for as long as the context lasts.

        Raises:
            Draining: The server shuts down.
            EngineFault: The engine's thread has ended by an error.
        """
        with self._lock:
            self._refuse_if_closed()
            yield

    def calls(self) -> list[Call]:
        """Return the open calls, oldest first."""
        with self._lock:
            return list(self._calls)

    def num_waiting(self) -> int:
        """Return how many images have no slot yet."""
        return sum(image.waiting for call in self.calls() for image in call.images)

    def remove(self, call: Call) -> bool:
        """Strike ``call`` out; return whether the book is empty."""
        with self._lock:
            self._calls.pop(call, None)
            return not self._calls

    def enter(self, request: ImageRequest, listener: Listener, route: Route) -> tuple[Call, float]:
        """Admit a request and tell its listener, or raise why not.

        Returns:
            The call, and the predicted seconds to its end.

        Raises:
            QueueFull: Too much waits already.
            DeadlineUnreachable: It would end after its deadline.
            Draining: The server shuts down.
            EngineFault: The engine's thread has ended by an error.
        """
        now = self._clock()
        image_s = self._costs.work_s(route.work(), request.width * request.height)
        demand = Demand(
            num_images=request.num_images,
            image_s=image_s,
            remaining_s=None if request.deadline is None else request.deadline - now,
        )
        call = Call(
            request=request, route=route, listener=listener, submitted_at=now, image_s=image_s
        )
        with self._lock:
            self._refuse_if_closed()
            images = [image for other in self._calls for image in other.images]
            num_waiting = sum(image.waiting for image in images)
            predicted_s = admit(
                demand,
                [image.left_s for image in images],
                num_waiting=num_waiting,
                max_waiting=self._max_waiting,
            )
            call.images += [
                Image(call=call, number=next(self._numbers), index=index)
                for index in range(request.num_images)
            ]
            self._calls[call] = None
        call.deliver(Queued(position=num_waiting, predicted_s=predicted_s))
        return call, predicted_s

    def _refuse_if_closed(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._draining:
            raise Draining
