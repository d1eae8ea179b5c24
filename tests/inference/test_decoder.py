"""Latents to pictures, beside the engine."""

import io
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from diptych.errors import DiptychError, EngineFault
from diptych.inference.decoder import DeviceDecoder
from diptych.inference.ports import Picture
from diptych.inference.trajectory import AdapterUse, ImageRequest, OutputFormat
from diptych.models.autoencoder import Autoencoder
from diptych.models.experts import load_experts

REQUEST = ImageRequest(request_id="a", width=128, height=128, seed=1)
LATENTS = torch.zeros(4, 16, 16)

Answers = queue.SimpleQueue[Picture | DiptychError]


@pytest.fixture(scope="module")
def vae(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    base = str(nano_pair / "base")
    return load_experts(base, None, cache_dir=tmp_path_factory.mktemp("cache")).hosted[0].vae


@pytest.fixture
def decoder(vae: Autoencoder) -> Iterator[DeviceDecoder]:
    decoder = DeviceDecoder(vae)
    yield decoder
    decoder.stop()


@pytest.fixture
def answers() -> Answers:
    return queue.SimpleQueue()


def picture(answers: Answers) -> Picture:
    answer = answers.get(timeout=60)
    assert isinstance(answer, Picture)
    return answer


@pytest.mark.parametrize("output", [OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG])
def test_gives_a_picture_in_the_format_asked_for(
    decoder: DeviceDecoder, answers: Answers, output: OutputFormat
) -> None:
    decoder.decode(LATENTS, replace(REQUEST, output=output), answers.put)
    with Image.open(io.BytesIO(picture(answers).data)) as opened:
        assert (opened.format, opened.size) == (output.value.upper(), (128, 128))


def test_pixels_are_the_autoencoders(
    decoder: DeviceDecoder, answers: Answers, vae: Autoencoder
) -> None:
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    decoder.decode(latents, REQUEST, answers.put)
    with Image.open(io.BytesIO(picture(answers).data)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), vae.decode(latents[None])[0])


def test_gives_latents_exactly(decoder: DeviceDecoder, answers: Answers) -> None:
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    decoder.decode(latents, replace(REQUEST, output=OutputFormat.LATENTS), answers.put)
    np.testing.assert_array_equal(picture(answers).latents, latents.numpy())


class Grey:
    """A previewer that shows one colour."""

    def preview(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        return np.full((len(latents), 32, 24, 3), 128, np.uint8)


def test_previews_are_the_previewers_where_there_is_one(vae: Autoencoder, answers: Answers) -> None:
    decoder = DeviceDecoder(vae, previewer=Grey())
    decoder.preview(LATENTS, REQUEST, answers.put)
    decoder.stop()
    with Image.open(io.BytesIO(picture(answers).data)) as opened:
        assert (opened.size, opened.getpixel((3, 3))) == ((24, 32), (128, 128, 128))


def test_a_preview_is_a_small_jpeg(decoder: DeviceDecoder, answers: Answers) -> None:
    decoder.preview(LATENTS, REQUEST, answers.put)
    preview = picture(answers)
    assert (preview.width, preview.height) == (16, 16)
    assert preview.data.startswith(b"\xff\xd8")


def test_latents_that_are_not_finite_fail_alone(decoder: DeviceDecoder, answers: Answers) -> None:
    bad: Answers = queue.SimpleQueue()
    decoder.decode(torch.full_like(LATENTS, torch.nan), REQUEST, bad.put)
    decoder.decode(LATENTS, REQUEST, answers.put)
    assert isinstance(bad.get(timeout=60), EngineFault)
    assert picture(answers).data


def test_latents_that_are_not_finite_name_the_adapters(decoder: DeviceDecoder) -> None:
    bad: Answers = queue.SimpleQueue()
    uses = tuple(AdapterUse(digest=f"sha256:{n}", name=n, scale=0.5) for n in ("huggy", "night"))
    request = replace(REQUEST, adapters=uses)
    decoder.decode(torch.full_like(LATENTS, torch.inf), request, bad.put)
    error = bad.get(timeout=60)
    assert isinstance(error, EngineFault)
    assert error.detail == "latents are not finite, painted with huggy@0.5, night@0.5"


def test_unlike_jobs_are_all_done(decoder: DeviceDecoder, answers: Answers) -> None:
    for size in (8, 16, 8, 16, 8):
        decoder.decode(torch.zeros(4, size, size), REQUEST, answers.put)
    widths = sorted(picture(answers).width for _ in range(5))
    assert widths == [64, 64, 64, 128, 128]


def test_stop_finishes_what_is_queued(vae: Autoencoder, answers: Answers) -> None:
    decoder = DeviceDecoder(vae)
    for _ in range(3):
        decoder.decode(LATENTS, REQUEST, answers.put)
    decoder.stop()
    assert answers.qsize() == 3
