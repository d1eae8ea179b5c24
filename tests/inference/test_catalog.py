"""The real catalogue: what comes in is checked against real shapes and stored in a real folder."""

from pathlib import Path

import pytest
import torch
from typing_extensions import override

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    Stage,
)
from diptych.adapters.bundle import to_bytes
from diptych.adapters.listing import Filter
from diptych.digest import Digest
from diptych.errors import (
    AdapterInvalid,
    AdapterMismatch,
    AdapterNotFound,
    DigestMismatch,
    DiptychError,
    InvalidRequest,
    NameTaken,
    PickleRefused,
    RequestCancelled,
    StoreFull,
)
from diptych.inference.catalog import AdapterCatalog, CatalogConfig
from diptych.inference.hosted import Hosted
from diptych.inference.orders import (
    AdapterWish,
    ImportOrder,
    Upload,
)
from diptych.inference.trajectory import Expert
from diptych.storage.local_refs import LocalRefs
from diptych.storage.refs import Ref
from support.full_disk import files_no_larger_than
from support.made_adapters import noise
from support.stored import a_catalog, an_adapter, never, taken


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def catalog(folder: Path, hosted: Hosted) -> AdapterCatalog:
    return a_catalog(folder, hosted)


def names(catalog: AdapterCatalog) -> list[str]:
    page = catalog.page(Filter(), tenant="default", page_size=0, page_token="")
    return [shown.name for shown in page.adapters]


def bundles(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def left_behind(folder: Path) -> list[Path]:
    return [*(folder / "incoming").iterdir(), *bundles(folder)]


def test_uploaded_bundle_keeps_its_digest(catalog: AdapterCatalog) -> None:
    adapter = an_adapter()
    assert taken(catalog, adapter).card.digest == Digest.of_bytes(to_bytes(adapter))


def test_upload_leaves_no_file_but_the_bundle(catalog: AdapterCatalog, folder: Path) -> None:
    taken(catalog, an_adapter())
    assert (list((folder / "incoming").iterdir()), len(bundles(folder))) == ([], 1)


def test_callers_facts_win_over_the_files(catalog: AdapterCatalog) -> None:
    adapter = an_adapter(width=6, family="sdxl-base")
    shown = taken(catalog, adapter, family="nano", stage=Stage.REFINER, trigger_words=("hug",))
    card = shown.card
    assert (card.family, card.stage, card.trigger_words) == ("nano", Stage.REFINER, ("hug",))


def test_importing_the_same_again_changes_nothing(catalog: AdapterCatalog) -> None:
    first = taken(catalog, an_adapter())
    assert taken(catalog, an_adapter()) == first


def test_name_of_another_adapter_is_not_taken(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter())
    with pytest.raises(NameTaken):
        taken(catalog, an_adapter(seed=5))


def test_name_moves_if_asked_to(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter())
    moved = taken(catalog, an_adapter(seed=5), replace=True)
    assert catalog.get("huggy", tenant="default") == moved


class Overtaken(LocalRefs):
    """Names that somebody removes as soon as they are given."""

    @override
    def write(self, key: str, value: bytes, *, expected: str | None) -> Ref | None:
        written = super().write(key, value, expected=expected)
        if written is not None and "/names/" in key:
            self.delete(key, expected=written.version)
        return written


def test_import_tells_what_it_stored_though_its_name_is_gone(folder: Path, hosted: Hosted) -> None:
    catalog = a_catalog(folder, hosted, refs=Overtaken(folder / "names"))
    shown = taken(catalog, an_adapter())
    assert (shown.name, shown.card.digest) == ("huggy", Digest.of_bytes(to_bytes(an_adapter())))


@pytest.mark.parametrize(
    ("adapter", "field"),
    [
        (an_adapter(family="sdxl-base"), "family"),
        (an_adapter(prediction_type="epsilon"), "prediction type"),
        (an_adapter(width=7), "unet.to_q"),
        (an_adapter(width=8, stage=Stage.REFINER), "unet.to_q"),
    ],
)
def test_adapter_that_fits_no_expert_is_refused(
    adapter: Adapter, field: str, catalog: AdapterCatalog, folder: Path
) -> None:
    with pytest.raises(AdapterMismatch) as caught:
        taken(catalog, adapter)
    assert (caught.value.field, left_behind(folder)) == (field, [])


def test_token_of_another_width_is_refused(catalog: AdapterCatalog) -> None:
    token = LearnedToken(vectors={Component.TEXT_ENCODER_2: noise(1, 9)})
    with pytest.raises(AdapterMismatch, match="token '<s0>'"):
        taken(catalog, Adapter(tokens={"<s0>": token}))


def test_misfit_is_taken_by_force(
    catalog: AdapterCatalog, caplog: pytest.LogCaptureFixture
) -> None:
    taken(catalog, an_adapter(width=7), force=True)
    assert "by force" in caplog.text


@pytest.mark.parametrize(
    ("data", "file_name", "error"),
    [
        (b"\x80\x04pickled", "huggy.safetensors", PickleRefused),
        (b"PK\x03\x04zipped!", "huggy.safetensors", PickleRefused),
        (to_bytes(an_adapter()), "huggy.bin", PickleRefused),
        (to_bytes(an_adapter())[:-9], "huggy.safetensors", AdapterInvalid),
        ((100 << 30).to_bytes(8, "little") + b"{}", "huggy.safetensors", AdapterInvalid),
        (b"x", "huggy.safetensors", AdapterInvalid),
        (to_bytes(an_adapter(rank=2)).replace(b"to_q/down", b"to_q/dawn"), "h", AdapterInvalid),
    ],
    ids=["pickle", "zip", "bin", "truncated", "100 GB", "one byte", "unknown key"],
)
def test_what_is_no_adapter_leaves_nothing(
    data: bytes, file_name: str, error: type[DiptychError], catalog: AdapterCatalog, folder: Path
) -> None:
    with pytest.raises(error):
        taken(catalog, data, file_name=file_name)
    assert (names(catalog), left_behind(folder)) == ([], [])


def test_infinite_weights_are_refused(catalog: AdapterCatalog) -> None:
    adapter = an_adapter()
    next(iter(adapter.targets.values())).down[0, 0] = torch.inf
    with pytest.raises(AdapterInvalid):
        taken(catalog, adapter)


def test_more_bytes_than_announced_are_refused(catalog: AdapterCatalog) -> None:
    upload = Upload(file_name="huggy", size_bytes=3)
    incoming = catalog.receive(ImportOrder(name="huggy", source=upload))
    with pytest.raises(InvalidRequest, match="4 bytes came, announced were 3"):
        incoming.write(b"four")
    incoming.discard()


def test_bytes_with_another_digest_are_refused(catalog: AdapterCatalog) -> None:
    upload = Upload(file_name="huggy", size_bytes=3, sha256=bytes(32))
    incoming = catalog.receive(ImportOrder(name="huggy", source=upload))
    incoming.write(b"one")
    with pytest.raises(DigestMismatch):
        incoming.finish(never)


def test_upload_over_the_limit_is_not_begun(catalog: AdapterCatalog) -> None:
    upload = Upload(file_name="huggy", size_bytes=(1 << 20) + 1)
    with pytest.raises(InvalidRequest, match="size_bytes"):
        catalog.receive(ImportOrder(name="huggy", source=upload))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_import_whose_caller_left_leaves_nothing(
    after: int, catalog: AdapterCatalog, folder: Path
) -> None:
    calls = iter(range(10))

    def go_on() -> None:
        if next(calls) == after:
            raise RequestCancelled("r")

    with pytest.raises(RequestCancelled):
        taken(catalog, an_adapter(), go_on=go_on)
    assert (names(catalog), left_behind(folder)) == ([], [])


def test_full_disk_is_told_and_leaves_nothing(catalog: AdapterCatalog, folder: Path) -> None:
    data = to_bytes(an_adapter(rank=128, width=8))
    with files_no_larger_than(1024), pytest.raises(StoreFull):
        taken(catalog, data)
    assert (names(catalog), left_behind(folder)) == ([], [])


def test_what_a_killed_process_left_goes(
    catalog: AdapterCatalog, folder: Path, hosted: Hosted
) -> None:
    (folder / "incoming" / "incoming-old").write_bytes(b"half")
    config = CatalogConfig(incoming_dir=folder / "incoming")
    AdapterCatalog(
        catalog._registry,
        hosted=hosted,
        weights={},
        fetch=catalog._fetch,
        config=config,
    )
    assert list((folder / "incoming").iterdir()) == []


def test_wishes_become_uses_of_digests(catalog: AdapterCatalog) -> None:
    digest = taken(catalog, an_adapter(dora=True)).card.digest
    wish = AdapterWish(reference="huggy", field="adapters[0]", scale=0.5)
    (use,) = catalog.resolve([wish], tenant="default", experts=frozenset(Expert))
    assert (use.digest, use.scale, use.dora) == (str(digest), 0.5, True)


def test_adapter_of_an_expert_that_does_not_run_is_left_out(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(width=6, stage=Stage.REFINER))
    wish = AdapterWish(reference="huggy", field="adapters[0]")
    assert catalog.resolve([wish], tenant="default", experts=frozenset({Expert.BASE})) == ()


def test_two_names_of_one_adapter_are_one_adapter_twice(catalog: AdapterCatalog) -> None:
    wishes = []
    for index, name in enumerate(("a", "b")):
        taken(catalog, an_adapter(), name)
        wishes.append(AdapterWish(reference=name, field=f"adapters[{index}]"))
    with pytest.raises(InvalidRequest, match=r"the same as adapters\[0\]"):
        catalog.resolve(wishes, tenant="default", experts=frozenset(Expert))


def test_adapter_of_another_family_is_refused_in_a_request(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(family="sdxl-base"), force=True)
    wish = AdapterWish(reference="huggy", field="adapters[0]")
    with pytest.raises(AdapterMismatch):
        catalog.resolve([wish], tenant="default", experts=frozenset(Expert))


def test_adapter_of_another_family_is_used_by_force(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter(family="sdxl-base"), force=True)
    wish = AdapterWish(reference="huggy", field="adapters[0]", force=True)
    assert len(catalog.resolve([wish], tenant="default", experts=frozenset(Expert))) == 1


def test_tenants_do_not_see_each_other(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter())
    with pytest.raises(AdapterNotFound):
        catalog.get("huggy", tenant="other")


def test_removed_name_is_gone(catalog: AdapterCatalog) -> None:
    taken(catalog, an_adapter())
    catalog.remove("huggy", tenant="default", expected=None)
    assert names(catalog) == []
