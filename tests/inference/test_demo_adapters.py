"""A nano server offers its demo adapters, and leaves alone what a user gave their names to."""

from pathlib import Path

import pytest

from diptych.adapters.card import Kind
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.digest import Digest
from diptych.inference.demo_adapters import publish_demo_adapters
from diptych.nano.pair import ADAPTERS, adapter_path
from diptych.storage.memory import MemoryBlobs, MemoryRefs
from diptych.storage.tiers import open_files


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    blobs = MemoryBlobs()
    files = open_files(blobs, cache_dir=tmp_path, limit_bytes=10**7)
    return Registry(AdapterStores(blobs=blobs, refs=MemoryRefs()), files)


def test_offers_each_under_its_name(registry: Registry) -> None:
    publish_demo_adapters(registry)
    cards = {name: registry.card(registry.resolve(name)) for name in ADAPTERS}
    assert cards["moon"].tokens == {"<moon>": 1}
    assert Kind.LORA in cards["night"].kinds


def test_a_second_start_changes_nothing(registry: Registry) -> None:
    publish_demo_adapters(registry)
    before = registry.pointers("default")
    publish_demo_adapters(registry)
    assert registry.pointers("default") == before


def test_a_name_that_a_user_gave_away_stays(registry: Registry) -> None:
    publish_demo_adapters(registry)
    night = Digest.of_file(adapter_path("night"))
    registry.move("moon", night, replace=True)
    publish_demo_adapters(registry)
    assert registry.resolve("moon") == night


def test_they_are_small_enough_to_ship() -> None:
    assert sum(adapter_path(name).stat().st_size for name in ADAPTERS) < 2 * 2**20
