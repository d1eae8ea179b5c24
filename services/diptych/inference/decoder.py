"""Finished latents to pictures, in a thread beside the engine's, several at a time."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.errors import DiptychError, EngineFault
from diptych.inference.pictures import encode_picture
from diptych.inference.ports import Picture
from diptych.inference.trajectory import ImageRequest, OutputFormat
from diptych.models.autoencoder import Autoencoder

__all__ = ["DecoderConfig", "DeviceDecoder", "Previewer"]

_log = logging.getLogger(__name__)

_PREVIEW_QUALITY: Final = 70

Done = Callable[[Picture | DiptychError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """How latents are decoded."""

    max_batch: int = 8
    """Pictures that one call of the autoencoder decodes."""
    num_writers: int = 2
    """Threads that compress pictures."""


class Previewer(Protocol):
    """Gives a fast look at latents."""

    def preview(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return small pictures [N, H, W, 3] of ``latents`` [N, C, h, w]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """Latents [C, h, w] to decode, or a denoised estimate to preview."""

    latents: Tensor
    request: ImageRequest
    done: Done
    preview: bool = False


class DeviceDecoder:
    """Decodes in one thread and writes files in others; implements ``ports.Decoder``.

    Previews are ``previewer``'s, the autoencoder's own projection where there is none.
    """

    def __init__(
        self,
        vae: Autoencoder,
        *,
        previewer: Previewer | None = None,
        config: DecoderConfig | None = None,
    ) -> None:
        self._vae = vae
        self._previewer: Previewer = previewer or vae
        # Beside the ticks' stream, so that reading a picture back does not wait for them.
        self._stream: torch.cuda.Stream | None = None
        if vae.device.type == "cuda":
            self._stream = torch.cuda.Stream(vae.device)  # type: ignore[no-untyped-call]
        self._config = config or DecoderConfig()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writers = ThreadPoolExecutor(self._config.num_writers, "writer")
        self._thread = threading.Thread(target=self._work, name="decoder", daemon=True)
        self._thread.start()

    def decode(self, latents: object, request: ImageRequest, done: Done) -> None:
        """Queue finished latents [C, h, w]; ``done`` gets the picture in the request's format."""
        assert isinstance(latents, Tensor)
        self._jobs.put(_Job(latents=latents, request=request, done=done))

    def preview(self, denoised: object, request: ImageRequest, done: Done) -> None:
        """Queue a denoised estimate [C, h, w]; ``done`` gets a small JPEG."""
        assert isinstance(denoised, Tensor)
        self._jobs.put(_Job(latents=denoised, request=request, done=done, preview=True))

    def stop(self) -> None:
        """Finish what is queued and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._writers.shutdown()

    def _work(self) -> None:
        while jobs := self._next_jobs():
            for _, alike in groupby(sorted(jobs, key=_kind), key=_kind):
                self._finish(list(alike))

    def _next_jobs(self) -> list[_Job]:
        """Wait for a job and return it with those behind it; none at the end."""
        jobs: list[_Job] = []
        try:
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == self._config.max_batch:
                    return jobs
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs
        if jobs:
            self._jobs.put(None)
        return jobs

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Do jobs of one kind together; if that fails, each alone."""
        try:
            with self._beside_ticks():
                results = self._decode(torch.stack([job.latents for job in jobs]), jobs[0])
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.exception("decoding %d images failed", len(jobs))
            if len(jobs) == 1:
                jobs[0].done(EngineFault(f"decode: {type(error).__name__}: {error}"))
                return
            for job in jobs:
                self._finish([job])
            return
        for job, result in zip(jobs, results, strict=True):
            self._writers.submit(_write, job, result)

    def _beside_ticks(self) -> contextlib.AbstractContextManager[object]:
        """Return a context whose work waits for latents that are computed, not for later ticks."""
        if self._stream is None:
            return contextlib.nullcontext()
        self._stream.wait_stream(torch.cuda.default_stream(self._vae.device))
        return torch.cuda.stream(self._stream)

    @torch.inference_mode()
    def _decode(self, latents: Tensor, job: _Job) -> list[NDArray[np.generic] | None]:
        """Return pixels [H, W, 3] or latents [C, h, w] of each row; None where it is not finite."""
        finite = latents.isfinite().flatten(1).all(1).tolist()
        safe = latents.nan_to_num(0.0, 0.0, 0.0)
        rows: NDArray[np.generic]
        if job.preview:
            rows = self._previewer.preview(safe)
        elif job.request.output is OutputFormat.LATENTS:
            rows = safe.cpu().numpy()
        else:
            rows = self._vae.decode(safe)
        return [row if good else None for row, good in zip(rows, finite, strict=True)]


def _kind(job: _Job) -> tuple[bool, bool, tuple[int, ...]]:
    """Return what jobs of one batch agree on; previews come first."""
    raw = job.request.output is OutputFormat.LATENTS
    return not job.preview, raw, tuple(job.latents.shape)


def _write(job: _Job, row: NDArray[np.generic] | None) -> None:
    """Give the caller one image in the format it asked for."""
    request = job.request
    if row is None:
        job.done(EngineFault(f"latents are not finite{_adapters(request)}"))
    elif job.preview:
        _write_picture(job, row, OutputFormat.JPEG, quality=_PREVIEW_QUALITY)
    elif request.output is OutputFormat.LATENTS:
        latents = row.astype(np.float32)
        job.done(Picture(width=request.width, height=request.height, latents=latents))
    else:
        _write_picture(job, row, request.output, quality=request.quality)


def _adapters(request: ImageRequest) -> str:
    """Return what names a request's adapters, which are the likeliest to be at fault."""
    named = ", ".join(f"{use.name}@{use.scale:g}" for use in request.adapters)
    return f", painted with {named}" if named else ""


def _write_picture(
    job: _Job, pixels: NDArray[np.generic], output: OutputFormat, *, quality: int
) -> None:
    height, width = pixels.shape[:2]
    try:
        data = encode_picture(pixels.astype(np.uint8, copy=False), output, quality=quality)
    except (OSError, ValueError) as error:
        job.done(EngineFault(f"{output}: {error}"))
        return
    job.done(Picture(width=width, height=height, data=data))
