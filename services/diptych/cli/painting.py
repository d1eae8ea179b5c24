"""Follow calls to the end: a bar while they run, files when they are done."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.markup import escape
from rich.progress import Progress as Bar

from diptych import __version__
from diptych.cli.files import picture_paths, write_latents, write_whole
from diptych.cli.report import Report
from diptych.clients.calls import GenerateCall, RefineCall, Stage
from diptych.clients.events import (
    AdapterProgress,
    Completed,
    Event,
    Picture,
    Preview,
    Progress,
    Queued,
    Resolved,
    Started,
    Timings,
)
from diptych.errors import ResponseCorrupt

__all__ = ["Painted", "follow", "follow_many", "preview_saver", "save", "settings_of"]

PREVIEW_SUFFIX: Final = ".jpg"

OnPreview = Callable[[Resolved, Preview], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """A call that ended well; ``pictures`` in the order of their index."""

    resolved: Resolved
    pictures: tuple[Picture, ...]
    timings: Timings


def follow(
    events: Iterable[Event], report: Report, *, on_preview: OnPreview | None = None
) -> Painted:
    """Read one call's events to their end, showing a bar."""
    with report.progress() as bar:
        return _Follower(bar, on_preview).read(events)


def follow_many(
    calls: Sequence[Callable[[], Iterable[Event]]],
    report: Report,
    *,
    at_once: int,
    label: str,
) -> list[Painted]:
    """Run calls in threads, ``at_once`` at a time, under one bar of calls; keep their order."""
    with report.progress() as bar:
        task = bar.add_task(label, total=len(calls))

        def run(call: Callable[[], Iterable[Event]]) -> Painted:
            painted = _Follower(None, None).read(call())
            bar.advance(task)
            return painted

        with ThreadPoolExecutor(at_once, thread_name_prefix="diptych-call") as pool:
            return list(pool.map(run, calls))


def save(
    painted: Painted, out: Path | None, *, output_format: str, settings: Mapping[str, object]
) -> list[dict[str, Any]]:
    """Write what was painted and describe each file: path, index, seed, size and digest.

    Latents go into one file, with ``settings`` and what the server chose as metadata.
    """
    if output_format == "latents":
        return [_save_latents(painted, out, settings)]
    paths = _paths(painted.resolved, out, output_format)
    described = []
    for picture in painted.pictures:
        path = paths[picture.image_index]
        write_whole(path, picture.data)
        described.append(
            {
                "path": str(path),
                "index": picture.image_index,
                "seed": picture.seed,
                "width": picture.width,
                "height": picture.height,
                "size_bytes": len(picture.data),
                "sha256": hashlib.sha256(picture.data).hexdigest(),
            }
        )
    return described


def preview_saver(out: Path | None, output_format: str, report: Report) -> OnPreview:
    """Return what writes each preview beside the picture it belongs to."""
    saved = threading.Lock()

    def save_preview(resolved: Resolved, preview: Preview) -> None:
        final = _paths(resolved, out, output_format)[preview.image_index]
        path = final.with_name(f"{final.stem}.step{preview.step:03d}{PREVIEW_SUFFIX}")
        with saved:
            write_whole(path, preview.data)
            report.note(f"[dim]preview[/] {escape(str(path))}")

    return save_preview


def settings_of(call: GenerateCall | RefineCall) -> dict[str, object]:
    """Return what a call says, flat, such as ``base.prompt``; open fields are left out."""
    flat: dict[str, object] = {}
    for stage_name in ("base", "refiner"):
        stage: Stage | None = getattr(call, stage_name, None)
        if stage is not None:
            flat |= {f"{stage_name}.{key}": value for key, value in asdict(stage).items()}
    names = ("spacing", "sigma_schedule", "eta", "history", "base_only")
    flat |= {name: getattr(call, name, None) for name in names}
    return {key: value for key, value in flat.items() if value is not None}


class _Follower:
    """Gathers one call's events; owned by the thread that reads the stream."""

    def __init__(self, bar: Bar | None, on_preview: OnPreview | None) -> None:
        self._bar = bar
        self._task = bar.add_task("sending", total=None) if bar else None
        self._on_preview = on_preview
        self._steps: dict[int, int] = {}
        self._resolved: Resolved | None = None
        self._pictures: list[Picture] = []

    def read(self, events: Iterable[Event]) -> Painted:
        timings: Timings | None = None
        for event in events:
            match event:
                case Queued():
                    self._resolved = event.resolved
                    waiting = f"waiting, {event.position} before" if event.position else "waiting"
                    self._show(waiting)
                case AdapterProgress():
                    self._show(f"adapter {event.adapter}: {event.state}")
                case Started():
                    self._show("painting")
                case Progress():
                    self._count(event)
                case Preview() if self._on_preview and self._resolved:
                    self._on_preview(self._resolved, event)
                case Picture():
                    self._pictures.append(event)
                case Completed():
                    timings = event.timings
                case _:
                    pass
        if self._resolved is None or timings is None:
            raise ResponseCorrupt("the stream ended before it was completed")
        self._show("done")
        pictures = sorted(self._pictures, key=lambda picture: picture.image_index)
        return Painted(resolved=self._resolved, pictures=tuple(pictures), timings=timings)

    def _count(self, event: Progress) -> None:
        self._steps[event.image_index] = event.step
        if self._bar is not None and self._task is not None and self._resolved:
            total = event.num_steps * self._resolved.num_images
            done = sum(self._steps.values())
            self._bar.update(self._task, total=total, completed=done, description=event.expert)

    def _show(self, text: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)


def _paths(resolved: Resolved, out: Path | None, output_format: str) -> list[Path]:
    seeds = [resolved.seed + index for index in range(resolved.num_images)]
    return picture_paths(out, seeds=seeds, output_format=output_format)


def _save_latents(
    painted: Painted, out: Path | None, settings: Mapping[str, object]
) -> dict[str, Any]:
    resolved = painted.resolved
    found = [picture.latents for picture in painted.pictures if picture.latents is not None]
    if not found or len(found) != len(painted.pictures):
        raise ResponseCorrupt("pictures where latents were asked for")
    latents = np.stack(found)
    first = painted.pictures[0]
    (path,) = picture_paths(out, seeds=[resolved.seed], output_format="latents")
    facts: dict[str, object] = {
        "diptych_version": __version__,
        **asdict(resolved),
        "family": first.family,
        "boundary": first.boundary,
        "num_draws": first.num_draws,
    }
    write_latents(path, latents, {**settings, **facts})
    return {"path": str(path), "seed": resolved.seed, "shape": list(latents.shape)}
