"""What the real catalogue gives: files in formats, and merges of what it holds."""

from pathlib import Path

import pytest

from diptych.adapters.bundle import to_bytes
from diptych.adapters.merge.spec import MergeSpec
from diptych.errors import (
    AdapterMismatch,
    ConversionUnsupported,
    InvalidRequest,
)
from diptych.inference.catalog import AdapterCatalog
from diptych.inference.hosted import Hosted
from diptych.inference.orders import (
    ExportedFile,
    MergeOrder,
    Shown,
)
from support.stored import a_catalog, an_adapter, never, taken


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def catalog(folder: Path, hosted: Hosted) -> AdapterCatalog:
    return a_catalog(folder, hosted)


def test_exported_bundle_is_what_is_stored(catalog: AdapterCatalog) -> None:
    adapter = an_adapter()
    taken(catalog, adapter)
    head, *pieces = catalog.export("huggy", "bundle", tenant="default")
    assert isinstance(head, ExportedFile)
    assert b"".join(pieces) == to_bytes(adapter)  # type: ignore[arg-type]


@pytest.mark.parametrize("target_format", ["diffusers", "peft"])
def test_exported_file_is_the_same_adapter_again(
    target_format: str, catalog: AdapterCatalog, folder: Path
) -> None:
    data, weights = b"", False
    first = taken(catalog, an_adapter(family="nano"))
    for part in catalog.export("huggy", target_format, tenant="default"):
        if isinstance(part, ExportedFile):
            weights = part.path.endswith(".safetensors")
        elif weights:
            data += part
    if target_format != "peft":  # whose weights alone do not tell their alphas
        again = taken(catalog, data, "again").card
        assert (again.num_targets, again.max_rank) == (first.card.num_targets, 2)


def test_format_without_a_word_for_a_target_says_so(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter())
    with pytest.raises(ConversionUnsupported, match=r"unet\.to_q"):
        list(catalog.export("huggy", "kohya", tenant="default"))


def merged(catalog: AdapterCatalog, **order: object) -> Shown:
    spec = MergeSpec(method="linear", weights=(0.5, 0.5))
    wish = {"sources": ("a", "b"), "spec": spec, "name": "both"}
    steps: list[tuple[int, int]] = []
    outcome = catalog.merge(
        MergeOrder(**wish | order),  # type: ignore[arg-type]
        lambda done, total: steps.append((done, total)),
        never,
    )
    assert steps == [(1, 1)]
    return outcome.adapter


def test_merge_is_stored_under_its_name(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(), "a")
    taken(catalog, an_adapter(seed=5), "b")
    assert merged(catalog).card.max_rank == 4


def test_merging_again_gives_the_same_digest(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(), "a")
    taken(catalog, an_adapter(seed=5), "b")
    assert merged(catalog).card.digest == merged(catalog, name="again").card.digest


def test_merge_of_a_dora_uses_the_hosted_weights(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(dora=True), "a")
    taken(catalog, an_adapter(seed=5), "b")
    spec = MergeSpec(method="svd", weights=(0.5, 0.5), rank=8)
    assert merged(catalog, spec=spec).card.max_rank == 8


def test_unlike_families_are_not_merged(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(family="nano"), "a")
    taken(catalog, an_adapter(seed=5, family="sdxl-base"), "b", force=True)
    with pytest.raises(AdapterMismatch):
        merged(catalog)


def test_unlike_families_are_merged_by_force(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(family="nano"), "a")
    taken(catalog, an_adapter(seed=5, family="sdxl-base"), "b", force=True)
    assert merged(catalog, force=True).card.family is None


def test_violations_of_a_merge_name_the_requests_fields(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(dora=True), "a")
    taken(catalog, an_adapter(seed=5), "b")
    spec = MergeSpec(method="linear", space="factors")
    with pytest.raises(InvalidRequest, match=r"sources\[0\]"):
        merged(catalog, spec=spec)
