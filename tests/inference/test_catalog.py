"""The real catalogue: what comes in is checked against real shapes and stored in a real folder."""

import resource
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import nn

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Stage,
    Target,
)
from diptych.adapters.bundle import to_bytes
from diptych.adapters.listing import Filter
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.registry import Registry
from diptych.adapters.stores import AdapterStores
from diptych.digest import Digest
from diptych.errors import (
    AdapterInvalid,
    AdapterMismatch,
    AdapterNotFound,
    ConversionUnsupported,
    DigestMismatch,
    DiptychError,
    InvalidRequest,
    NameTaken,
    PickleRefused,
    RequestCancelled,
    StoreFull,
)
from diptych.inference.base_weights import weights_of
from diptych.inference.catalog import AdapterCatalog, CatalogConfig
from diptych.inference.hosted import Hosted
from diptych.inference.orders import (
    AdapterWish,
    ExportedFile,
    ImportOrder,
    MergeOrder,
    Shown,
    Upload,
)
from diptych.inference.trajectory import Expert
from diptych.storage.local import LocalBlobs
from diptych.storage.local_refs import LocalRefs
from diptych.storage.tiers import DirectFiles
from support.made_adapters import noise


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, width, 3)
        self.to_q = nn.Linear(width, width)
        self.tokens = nn.Embedding(8, width)


def an_adapter(
    width: int = 8, rank: int = 2, *, seed: int = 0, dora: bool = False, **made_for: object
) -> Adapter:
    magnitude = Magnitude(norms=noise(width, seed=9).abs(), per_input=False) if dora else None
    low_rank = LowRank(
        down=noise(rank, width, seed=seed),
        up=noise(width, rank, seed=seed + 1),
        alpha=1.0,
        magnitude=magnitude,
    )
    target = Target(component=Component.UNET, module="to_q")
    return Adapter(
        targets=MappingProxyType({target: low_rank}),
        made_for=MadeFor(**made_for),  # type: ignore[arg-type]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def catalog(folder: Path, hosted: Hosted) -> AdapterCatalog:
    stores = AdapterStores(blobs=LocalBlobs(folder / "blobs"), refs=LocalRefs(folder / "names"))
    weights = {
        expert: weights_of(expert, Block(width), {"text_encoder_2": Block(width)})
        for expert, width in ((Expert.BASE, 8), (Expert.REFINER, 6))
    }

    def nothing(uri: str, _: Callable[[], None]) -> object:
        raise AdapterNotFound(uri)

    return AdapterCatalog(
        Registry(stores, DirectFiles()),
        hosted=hosted,
        weights=weights,
        fetch=nothing,  # type: ignore[arg-type]
        config=CatalogConfig(incoming_dir=folder / "incoming", max_bytes=1 << 20),
    )


def never() -> None:
    pass


def taken(
    catalog: AdapterCatalog,
    adapter: Adapter | bytes,
    name: str = "huggy",
    *,
    go_on: Callable[[], None] = never,
    file_name: str = "huggy.safetensors",
    **order: object,
) -> Shown:
    data = adapter if isinstance(adapter, bytes) else to_bytes(adapter)
    upload = Upload(file_name=file_name, size_bytes=len(data))
    incoming = catalog.receive(ImportOrder(name=name, source=upload, **order))  # type: ignore[arg-type]
    try:
        incoming.write(data)
        return incoming.finish(go_on)
    finally:
        incoming.discard()


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
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = to_bytes(an_adapter(rank=128, width=8))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        with pytest.raises(StoreFull):
            taken(catalog, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
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
    data = b""
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
