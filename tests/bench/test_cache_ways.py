"""Every way gives back what it was given."""

from pathlib import Path

import pytest
import torch

from diptych.bench.cache_ways import (
    FileWay,
    GzipWay,
    PackWay,
    Way,
    as_entry,
    from_entry,
    made_values,
)
from diptych.storage.local import LocalBlobs


@pytest.fixture(params=["gzip", "files", "packs"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    folder = tmp_path / "kept"
    if request.param == "packs":
        return PackWay(LocalBlobs(folder))
    return GzipWay(folder) if request.param == "gzip" else FileWay(folder)


def test_what_was_written_is_read(way: Way) -> None:
    entries = made_values(6, seed=1)
    way.write(entries)
    found = list(way.read([key for key, _ in entries]))
    assert len(found) == 6
    for values, (_, expected) in zip(found, entries, strict=True):
        assert all(torch.equal(values[name], expected[name]) for name in expected)


def test_entries_have_sdxls_size() -> None:
    (_, prompt), (_, image) = made_values(2, seed=1)
    assert prompt["hidden"].shape == (77, 2048)
    assert image["mean"].shape == image["std"].shape == (4, 128, 128)
    assert 316_000 < len(as_entry(prompt)) < 320_000
    assert torch.equal(from_entry(as_entry(image))["std"], image["std"])
