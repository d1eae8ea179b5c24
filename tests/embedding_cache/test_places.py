"""Embeddings lie where the settings say, each tenant's by itself."""

from pathlib import Path

from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.settings import CacheSettings, Settings


def test_home_holds_them_unless_a_folder_is_named(tmp_path: Path) -> None:
    assert store_config(Settings(home=tmp_path)).folder == tmp_path / "embeddings"
    named = Settings(home=tmp_path, cache=CacheSettings(dir=tmp_path / "other"))
    assert store_config(named).folder == tmp_path / "other"


def test_each_tenant_has_a_namespace(tmp_path: Path) -> None:
    assert store_config(Settings(home=tmp_path), tenant="acme").namespace == "acme"
