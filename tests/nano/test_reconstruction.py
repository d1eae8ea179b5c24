"""PSNR is measured on real renders through a real autoencoder."""

from pathlib import Path

import pytest

from diptych.nano.architecture import build_autoencoder
from diptych.nano.reconstruction import reconstruction_psnr
from diptych.nano.scenes import held_out_scenes


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    build_autoencoder().save_pretrained(folder / "vae")
    return folder


def test_an_untrained_autoencoder_keeps_little(untrained: Path) -> None:
    assert 0 < reconstruction_psnr(untrained, held_out_scenes(3)) < 20


def test_the_measure_is_the_same_every_time(untrained: Path) -> None:
    scenes = held_out_scenes(2)
    assert reconstruction_psnr(untrained, scenes) == reconstruction_psnr(untrained, scenes)
