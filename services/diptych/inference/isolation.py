"""A tick whose bad rows fail alone and whose batch shrinks when the device is full."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.errors import DiptychError, EngineFault, OutOfDeviceMemory
from diptych.inference.call import Image
from diptych.inference.ports import Executor, Row
from diptych.inference.trajectory import Expert

__all__ = ["Advanced", "Isolation", "as_failure"]

_log = logging.getLogger(__name__)

Advanced = tuple[Image, object | None]
"""An image that has advanced, with its denoised estimate where one was wanted."""


def as_failure(error: Exception) -> DiptychError:
    """Return ``error`` itself if it is one of ours, else the fault it means for a request."""
    if isinstance(error, DiptychError):
        return error
    return EngineFault(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Runs batches of rows so that no row pays for another.

    ``fail`` ends the request of an image; ``shrink`` hears that the batch was too large.
    """

    executor: Executor
    fail: Callable[[Image, DiptychError], None]
    shrink: Callable[[], None]

    def run(self, expert: Expert, images: Sequence[Image]) -> list[Advanced]:
        """Advance ``images`` by one evaluation; return those that did advance.

        Out of memory splits the batch in two halves, each tried once; a half that does not fit
        either loses its largest image and the others stay for the next tick. Any other error is
        found by running each image alone.
        """
        try:
            return self._attempt(expert, images)
        except OutOfDeviceMemory:
            self.shrink()
            middle = (len(images) + 1) // 2
            halves = [half for half in (images[:middle], images[middle:]) if half]
            return [done for half in halves for done in self._run_half(expert, half)]
        except Exception:  # noqa: BLE001  logged, fails one request
            _log.exception("a tick of %d images failed; running each alone", len(images))
            return [done for image in images for done in self._run_alone(expert, image)]

    def _attempt(self, expert: Expert, images: Sequence[Image]) -> list[Advanced]:
        rows = [_row(image) for image in images]
        return list(zip(images, self.executor.run(expert, rows), strict=True))

    def _run_half(self, expert: Expert, images: Sequence[Image]) -> list[Advanced]:
        try:
            return self._attempt(expert, images)
        except OutOfDeviceMemory as error:
            largest = max(images, key=lambda image: (image.num_rows, image.number))
            self.fail(largest, error)
            return []

    def _run_alone(self, expert: Expert, image: Image) -> list[Advanced]:
        try:
            return self._attempt(expert, [image])
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("request %s fails", image.call.request.request_id)
            self.fail(image, as_failure(error))
            return []


def _row(image: Image) -> Row:
    assert image.slot is not None, "only images with a slot are scheduled"
    route, every = image.call.route, image.call.request.preview_every
    preview = (
        every > 0
        and route.steps[image.position] % every == 0
        and route.completes_step(image.position)
    )
    return Row(slot=image.slot, position=image.position, preview=preview)
