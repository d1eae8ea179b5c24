"""Events become pictures in order, files and metadata."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diptych.cli.files import read_latents
from diptych.cli.painting import follow, follow_many, preview_saver, save, settings_of
from diptych.cli.report import Report
from diptych.clients.calls import GenerateCall, Stage
from diptych.clients.events import (
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
from diptych.errors import Draining, ResponseCorrupt

TIMINGS = Timings(queue_s=0, encode_s=0, base_s=1, refiner_s=1, decode_s=0, total_s=2)
RESOLVED = Resolved(
    request_id="r",
    seed=7,
    num_images=2,
    num_steps=2,
    width=128,
    height=128,
    solver="euler",
    boundary=0.65,
)


def picture(index: int, latents: np.ndarray | None = None) -> Picture:
    return Picture(
        image_index=index,
        seed=7 + index,
        width=128,
        height=128,
        media_type="image/png",
        data=bytes([index]),
        latents=latents,
        family="nano",
        boundary=0.65,
        num_draws=3,
    )


def events(*pictures: Picture) -> Iterator[Event]:
    yield Queued(position=1, predicted_s=0.0, resolved=RESOLVED)
    yield Started()
    yield Progress(image_index=0, step=1, num_steps=2, expert="base")
    yield Preview(image_index=1, step=1, data=b"jpeg", width=64, height=64)
    yield from pictures
    yield Completed(request_id="r", timings=TIMINGS)


@pytest.fixture
def report() -> Report:
    return Report(as_json=True)


def test_pictures_are_put_in_order(report: Report) -> None:
    painted = follow(events(picture(1), picture(0)), report)
    assert [one.image_index for one in painted.pictures] == [0, 1]


def test_files_are_described_and_hold_the_bytes(report: Report, tmp_path: Path) -> None:
    painted = follow(events(picture(0), picture(1)), report)
    files = save(painted, tmp_path / "a.png", output_format="png", settings={})
    written = [Path(file["path"]).read_bytes() for file in files]
    assert (written, [file["seed"] for file in files]) == ([b"\x00", b"\x01"], [7, 8])


def test_latents_of_all_images_share_one_file(report: Report, tmp_path: Path) -> None:
    latents = [np.full((4, 16, 16), index, np.float32) for index in range(2)]
    painted = follow(events(*(picture(i, one) for i, one in enumerate(latents))), report)
    save(painted, tmp_path / "a.safetensors", output_format="latents", settings={"eta": 0.5})
    file = read_latents(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(file.latents, np.stack(latents))
    told = {key: file.metadata[key] for key in ("eta", "seed", "boundary", "num_draws", "family")}
    assert told == {
        "eta": "0.5",
        "seed": "7",
        "boundary": "0.65",
        "num_draws": "3",
        "family": "nano",
    }


def test_previews_are_named_after_picture_and_step(report: Report, tmp_path: Path) -> None:
    saver = preview_saver(tmp_path / "a.png", "png", report)
    follow(events(picture(0), picture(1)), report, on_preview=saver)
    assert (tmp_path / "a-1.step001.jpg").read_bytes() == b"jpeg"


def test_stream_that_breaks_off_is_an_error(report: Report) -> None:
    with pytest.raises(ResponseCorrupt):
        follow(iter(list(events(picture(0)))[:-1]), report)


def test_many_calls_keep_their_order(report: Report) -> None:
    calls = [lambda i=i: events(picture(i)) for i in range(5)]
    painted = follow_many(calls, report, at_once=3, label="five")
    assert [one.pictures[0].image_index for one in painted] == list(range(5))


def test_error_of_one_of_many_calls_is_raised(report: Report) -> None:
    def fail() -> Iterator[Event]:
        raise Draining

    with pytest.raises(Draining):
        follow_many([fail], report, at_once=1, label="one")


def test_settings_are_flat_and_leave_open_fields_out() -> None:
    call = GenerateCall(base=Stage(prompt="a heart", guidance_scale=3.0), eta=0.5)
    assert settings_of(call) == {
        "base.prompt": "a heart",
        "base.guidance_scale": 3.0,
        "base.guidance_rescale": 0.0,
        "base_only": False,
        "eta": 0.5,
    }
