"""From a waiting image to a slot that holds its first latents."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.errors import DiptychError
from diptych.inference.call import Call, Image
from diptych.inference.isolation import as_failure
from diptych.inference.ports import Executor, Observer, Placement
from diptych.inference.trajectory import Started

__all__ = ["Starting"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """Encodes prompts and fills slots; what cannot start fails alone. Used by the engine thread."""

    executor: Executor
    observer: Observer
    clock: Callable[[], float]
    fail: Callable[[Call, DiptychError], None]

    def encode(self, calls: Sequence[Call]) -> None:
        """Encode the prompts of ``calls`` together; if that fails, of each alone."""
        if not calls:
            return
        began = self.clock()
        try:
            results = self.executor.encode([call.request for call in calls])
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("encoding the prompts of %d requests failed", len(calls))
            if len(calls) == 1:
                self.fail(calls[0], as_failure(error))
            else:
                for call in calls:
                    self.encode([call])
            return
        for call, result in zip(calls, results, strict=True):
            call.encode_s = self.clock() - began
            if isinstance(result, DiptychError):
                self.fail(call, result)
            else:
                call.conditioning = result
                call.num_texts_encoded = result.num_texts_encoded
                call.num_texts_cached = result.num_texts_cached

    def place(self, image: Image) -> bool:
        """Fill the slot of ``image`` and tell its listener; return whether it can be scheduled."""
        call = image.call
        assert image.slot is not None
        assert call.conditioning is not None
        placement = Placement(
            slot=image.slot,
            request=call.request,
            index=image.index,
            route=call.route,
            conditioning=call.conditioning,
        )
        try:
            self.executor.place(placement)
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("placing an image of request %s failed", call.request_id)
            self.fail(call, as_failure(error))
            return False
        if call.started_at is None:
            call.started_at = self.clock()
            self.observer.on_queue_time(call.started_at - call.submitted_at)
            call.deliver(Started())
        return True
