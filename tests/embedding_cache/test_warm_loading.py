"""Warm-ups of this process: real encoders on every device, and many processes that share them."""

from pathlib import Path

import pytest
import torch

from diptych.embedding_cache.ports import Stage
from diptych.embedding_cache.settings import CacheSettings, Settings
from diptych.embedding_cache.warm import WarmConfig
from diptych.embedding_cache.warm_loading import devices_of, encoders_here, warming_here
from diptych.errors import SettingInvalid
from support.warming import a_dataset, packed, settings_in, warmed


def test_both_stages_of_the_nano_pair_need_the_same(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, 3)
    with warming_here(settings_in(tmp_path), WarmConfig(folder=tmp_path)) as warmer:
        assert warmer.stages == (Stage.BASE, Stage.REFINER)
        first, second = (warmed(warmer, manifest, stage) for stage in warmer.stages)
    assert (first.num_encoded, second.num_encoded, second.num_present) == (6, 0, 6)
    assert set(packed(tmp_path).values()) == {1}


def test_auto_means_every_device_and_a_name_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    devices = [
        devices_of(Settings(cache=CacheSettings(device=name))) for name in ("auto", "cuda:1", "cpu")
    ]
    assert devices == [("cuda:0", "cuda:1", "cuda:2"), ("cuda:1",), ("cpu",)]


def test_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, cache=CacheSettings(device="cuda:7"))
    with pytest.raises(SettingInvalid), encoders_here(settings):
        pytest.fail("there is no such device")
