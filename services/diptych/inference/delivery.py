"""The way from finished latents to the caller: decode, then tell the listener."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diptych.errors import DiptychError
from diptych.inference.call import Call, Image
from diptych.inference.ports import Decoder, Finished, Observer, Picture
from diptych.inference.trajectory import ImageReady, Preview

__all__ = ["Delivery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Sends latents through the decoder and delivers what comes back.

    Pictures are delivered from the decoder's threads, so that they do not wait for a tick to
    end. ``done`` hears of every image that is through, with the error if there is one; it is
    called from the decoder's threads too.
    """

    decoder: Decoder
    observer: Observer
    clock: Callable[[], float]
    done: Callable[[Call, DiptychError | None], None]

    def send(self, image: Image, finished: Finished) -> None:
        """Decode the latents of ``image`` and deliver the picture."""
        now = self.clock()
        image.call.decoding_since = now
        receive = partial(self._receive, image, finished.draws, now)
        self.decoder.decode(finished.latents, image.call.request, receive)

    def send_preview(self, image: Image, denoised: object, *, step: int) -> None:
        """Deliver a small picture of the denoised estimate after ``step``."""
        receive = partial(self._receive_preview, image, step)
        self.decoder.preview(denoised, image.call.request, receive)

    def finish(self, call: Call, reason: str | None) -> None:
        """Note the end of ``call``; ``reason`` is the error's, None for success."""
        seconds = self.clock() - call.submitted_at
        num_images = call.request.num_images
        self.observer.on_finish(seconds=seconds, num_images=num_images, reason=reason)

    def _receive(
        self, image: Image, draws: int, since: float, picture: Picture | DiptychError
    ) -> None:
        call = image.call
        if isinstance(picture, DiptychError):
            self.done(call, picture)
            return
        now = self.clock()
        self.observer.on_decode(now - since)
        ready = ImageReady(
            image_index=image.index,
            seed=call.request.seed + image.index,
            width=picture.width,
            height=picture.height,
            data=picture.data,
            latents=picture.latents,
            draws=draws,
        )
        if call.complete_image(ready, now):
            self.finish(call, None)
        self.done(call, None)

    def _receive_preview(self, image: Image, step: int, picture: Picture | DiptychError) -> None:
        if isinstance(picture, DiptychError):
            return
        image.call.deliver_preview(
            Preview(
                image_index=image.index,
                step=step,
                data=picture.data,
                width=picture.width,
                height=picture.height,
            )
        )
