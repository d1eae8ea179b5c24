"""Files behind a plan: images as they were indexed, masks as the network sees them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.datasets.places import EVERYWHERE
from diptych.datasets.sampling import Sample, Sampler, SamplerConfig
from diptych.errors import ImageInvalid
from diptych.training.dataset_files import DatasetFiles
from support.fed import some_plans

MASKS = "masks: {source: {type: folder, path: masks}%s}"


def write_mask(folder: Path, name: str, *, left: int, right: int) -> None:
    """Write a mask of 96x64 with the left half of one brightness and the right of another."""
    pixels = np.full((64, 96), left, dtype=np.uint8)
    pixels[:, 48:] = right
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "masks" / f"{name}.png")


def first_sample(plans: object) -> Sample:
    step = next(Sampler(plans, SamplerConfig(num_epochs=1)).steps())  # type: ignore[arg-type]
    return step.batches[0].samples[0]


@pytest.mark.parametrize(("more", "left", "right"), [("", 0.4, 0.8), (", binary: true", 0.0, 1.0)])
def test_a_mask_is_averaged_to_the_size_of_latents(
    tmp_path: Path, more: str, left: float, right: float
) -> None:
    write_mask(tmp_path, "p0", left=102, right=204)
    plans = some_plans(tmp_path, MASKS % more, num_images=1, batch_size=1)
    sample = first_sample(plans)
    width, height = sample.preprocessing.crop[2:]
    found = DatasetFiles(plans, EVERYWHERE).mask("one", sample, pixels_per_latent=8)
    assert found is not None
    assert found.shape == (1, height // 8, width // 8)
    assert found[0, 0, 0].item() == pytest.approx(left, abs=0.01)
    assert found[0, 0, -1].item() == pytest.approx(right, abs=0.01)
    assert found.dtype == torch.float32


def test_an_image_without_a_mask_has_none(tmp_path: Path) -> None:
    plans = some_plans(tmp_path, num_images=1, batch_size=1)
    files = DatasetFiles(plans, EVERYWHERE)
    assert files.mask("one", first_sample(plans), pixels_per_latent=8) is None


def test_a_mask_that_changed_is_told(tmp_path: Path) -> None:
    write_mask(tmp_path, "p0", left=102, right=204)
    plans = some_plans(tmp_path, MASKS % "", num_images=1, batch_size=1)
    sample = first_sample(plans)
    write_mask(tmp_path, "p0", left=0, right=204)
    with pytest.raises(ImageInvalid, match=r"p0\.png of dataset one's masks: changed since"):
        DatasetFiles(plans, EVERYWHERE).mask("one", sample, pixels_per_latent=8)


def test_an_image_is_read_as_it_was_indexed(tmp_path: Path) -> None:
    plans = some_plans(tmp_path, num_images=1, batch_size=1)
    entry = first_sample(plans).entry
    files = DatasetFiles(plans, EVERYWHERE)
    assert files.image("one", entry) == (tmp_path / "in" / "p0.png").read_bytes()


@pytest.mark.parametrize(
    ("become", "problem"),
    [
        (lambda path: path.write_bytes(b"another"), "changed since the job listed it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "changed since the job listed it"),
        (lambda _: None, "is gone since the job listed it"),
        (lambda path: path.symlink_to("nowhere"), "is gone since the job listed it"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    ],
    ids=["replaced", "cut", "gone", "loose link", "folder"],
)
def test_an_image_that_is_no_longer_what_was_indexed_is_named_with_its_dataset(
    tmp_path: Path, become: Callable[[Path], object], problem: str
) -> None:
    plans = some_plans(tmp_path, num_images=1, batch_size=1)
    path, entry = tmp_path / "in" / "p0.png", first_sample(plans).entry
    whole = path.read_bytes()
    path.unlink()
    if problem.startswith("changed"):
        path.write_bytes(whole)
    become(path)
    with pytest.raises(ImageInvalid) as error:
        DatasetFiles(plans, EVERYWHERE).image("one", entry)
    assert str(error.value) == f"image p0.png of dataset one: {problem}"
