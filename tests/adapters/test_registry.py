"""Names point at whole adapters, one writer at a time moves them, and tenants stay apart."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.adapters.naming import Stage
from diptych.adapters.registry import Registry, utc_now
from diptych.digest import Digest
from diptych.errors import (
    AdapterNotFound,
    BlobCorrupt,
    DigestMismatch,
    InvalidRequest,
    NameMoved,
    NameTaken,
    StoreFull,
)
from diptych.storage.memory import MemoryBlobs
from support import publisher
from support.buckets import Bucket, s3_bucket, s3_server
from support.shelves import NOON, card_of, in_bucket, in_folder, in_memory, published

TESTS = Path(publisher.__file__).parents[1]
ONE, TWO, THREE = b"one", b"two", b"three"
D1, D2, D3 = (Digest.of_bytes(bundle) for bundle in (ONE, TWO, THREE))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return in_memory(tmp_path / "tier")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_server() as url:
        yield s3_bucket(url)


def blob_digests(registry: Registry, tenant: str = "default") -> list[Digest]:
    return [digest for digest, _ in registry.stores.content(tenant).listing()]


def test_a_published_name_leads_to_the_bytes(registry: Registry) -> None:
    assert published(registry, "styles/huggy", ONE) == D1
    with registry.hold(registry.resolve("styles/huggy")) as path:
        assert path.read_bytes() == ONE


def test_publishes_a_file(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(ONE)
    assert registry.publish("huggy", tmp_path / "bundle", card_of(ONE)) == D1
    with registry.hold(D1) as path:
        assert path.read_bytes() == ONE


def test_what_is_kept_has_no_name_until_it_is_given_one(registry: Registry) -> None:
    assert registry.keep(ONE, card_of(ONE)) == D1
    assert registry.pointers("default") == {}
    registry.move("huggy", D1)
    assert registry.resolve("huggy") == D1


def test_a_bundle_with_another_ones_card_is_not_kept(registry: Registry) -> None:
    with pytest.raises(DigestMismatch):
        registry.keep(ONE, card_of(TWO))


def test_a_card_is_found_by_digest(registry: Registry) -> None:
    card = card_of(ONE, stage=Stage.REFINER, trigger_words=("hug",))
    registry.publish("huggy", ONE, card)
    assert registry.card(D1) == card


def test_the_first_card_of_an_adapter_stays(registry: Registry, tmp_path: Path) -> None:
    first = card_of(ONE, source="here")
    registry.publish("huggy", ONE, first)
    registry.publish("copy", ONE, card_of(ONE, source="there"))
    assert Registry(registry.stores, in_memory(tmp_path / "x")._files).card(D1) == first


@pytest.mark.parametrize("reference", ["huggy", "huggy:latest", str(D1)])
def test_resolves_what_means_an_adapter(registry: Registry, reference: str) -> None:
    published(registry, "huggy", ONE)
    assert registry.resolve(reference) == D1


@pytest.mark.parametrize("reference", ["hugg", "huggy:v1", "huggy/a", str(D2)])
def test_what_nothing_is_called_is_not_found(registry: Registry, reference: str) -> None:
    published(registry, "huggy", ONE)
    with pytest.raises(AdapterNotFound) as caught:
        registry.resolve(reference)
    assert caught.value.adapter == reference


def test_tags_of_a_name_are_apart(registry: Registry) -> None:
    published(registry, "huggy", ONE, tag="v1")
    published(registry, "huggy", TWO, tag="v2")
    assert [registry.resolve(f"huggy:{tag}") for tag in ("v1", "v2")] == [D1, D2]


def test_publishing_the_same_again_changes_nothing(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    before = registry.pointers("default")
    assert published(registry, "huggy", ONE) == D1
    assert registry.pointers("default") == before


def test_a_name_in_use_is_taken(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    with pytest.raises(NameTaken, match="huggy:latest"):
        published(registry, "huggy", TWO)
    assert registry.resolve("huggy") == D1


def test_replaces_what_it_is_told_to(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    published(registry, "huggy", TWO, replace=True)
    assert registry.resolve("huggy") == D2


def test_moves_from_where_it_is_expected(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    published(registry, "huggy", TWO, expected=D1)
    assert registry.resolve("huggy") == D2


@pytest.mark.parametrize("replace", [False, True])
def test_does_not_move_from_elsewhere(registry: Registry, replace: bool) -> None:
    published(registry, "huggy", ONE)
    with pytest.raises(NameMoved) as caught:
        published(registry, "huggy", TWO, expected=D3, replace=replace)
    assert (caught.value.expected, caught.value.actual) == (str(D3), str(D1))
    assert registry.resolve("huggy") == D1


def test_does_not_move_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(NameMoved, match="points at nothing"):
        published(registry, "huggy", TWO, expected=D1)


def test_of_two_who_move_a_name_at_once_one_is_told(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    bundles = [b"%d" % number for number in range(8)]

    def move(bundle: bytes) -> int:
        try:
            published(registry, "huggy", bundle, expected=D1)
        except NameMoved:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(move, bundles)) == 1


def test_a_name_can_move_to_what_is_here(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    registry.move("huggy", D1, tag="stable")
    assert registry.resolve("huggy:stable") == D1


def test_a_name_cannot_move_to_what_is_not_here(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        registry.move("huggy", D1)


def test_refuses_a_card_of_another_bundle(registry: Registry) -> None:
    with pytest.raises(DigestMismatch):
        registry.publish("huggy", ONE, card_of(TWO))
    assert blob_digests(registry) == []


@pytest.mark.parametrize("name", ["../x", "a\0", "a" * 10_000, "a:b", "A", "sha256"])
def test_refuses_a_bad_name_and_stores_nothing(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidRequest):
        published(registry, name, ONE)
    assert blob_digests(registry) == []


def test_a_full_store_leaves_no_name(tmp_path: Path) -> None:
    registry = in_memory(tmp_path / "tier")
    assert isinstance(registry.stores.blobs, MemoryBlobs)
    registry.stores.blobs._limit_bytes = 2
    with pytest.raises(StoreFull):
        published(registry, "huggy", ONE)
    with pytest.raises(AdapterNotFound):
        registry.resolve("huggy")
    with pytest.raises(AdapterNotFound):
        registry.resolve(str(D1))


def test_tenants_do_not_see_each_other(registry: Registry) -> None:
    published(registry, "huggy", ONE, tenant="one")
    for reference in ("huggy", str(D1)):
        with pytest.raises(AdapterNotFound):
            registry.resolve(reference, tenant="two")
    with pytest.raises(AdapterNotFound):
        registry.hold(D1, tenant="two")


def test_a_cached_file_is_no_way_into_another_tenant(registry: Registry) -> None:
    published(registry, "huggy", ONE, tenant="one")
    with registry.hold(D1, tenant="one"):
        pass
    assert registry.is_here(D1, tenant="one")
    with pytest.raises(AdapterNotFound):
        registry.hold(D1, tenant="two")


def test_corrupt_bytes_are_not_handed_out(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    content = registry.stores.content("default")
    content.blobs.put(content.key(D1), [b"on!"])
    with pytest.raises(BlobCorrupt), registry.hold(D1):
        pass


def test_publishing_again_heals_corrupt_bytes(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    content = registry.stores.content("default")
    content.blobs.put(content.key(D1), [b"on!"])
    published(registry, "huggy", ONE)
    with registry.hold(D1) as path:
        assert path.read_bytes() == ONE


def test_removes_a_tag_and_leaves_others(registry: Registry) -> None:
    published(registry, "huggy", ONE)
    published(registry, "huggy", ONE, tag="v1")
    assert registry.remove("huggy") == ("huggy:latest",)
    assert registry.resolve("huggy:v1") == D1


def test_removes_every_name_of_a_digest(registry: Registry) -> None:
    for name, bundle in (("b", ONE), ("a", ONE), ("c", TWO)):
        published(registry, name, bundle)
    assert registry.remove(str(D1)) == ("a:latest", "b:latest")
    assert [pointer.digest for pointer in registry.pointers("default").values()] == [D2]


@pytest.mark.parametrize("reference", ["huggy", str(D1)])
def test_removes_nothing_that_is_not_there(registry: Registry, reference: str) -> None:
    with pytest.raises(AdapterNotFound):
        registry.remove(reference)


@pytest.mark.parametrize("reference", ["huggy", str(D1)])
def test_does_not_remove_what_is_not_as_expected(registry: Registry, reference: str) -> None:
    published(registry, "huggy", ONE)
    with pytest.raises(NameMoved):
        registry.remove(reference, expected=D2)
    assert registry.resolve("huggy") == D1


def test_time_is_utc() -> None:
    offset = utc_now().utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0


def test_an_entry_says_since_when_a_name_points_there(registry: Registry) -> None:
    published(registry, "styles/huggy", ONE, tag="v1")
    key = registry.stores.name_key("default", "styles/huggy", "v1")
    ref = registry.stores.refs.read(key)
    assert ref is not None
    entry = registry.entry(key, ref, tenant="default")
    assert (entry.name, entry.tag, entry.moved_at) == ("styles/huggy", "v1", NOON)
    assert entry.card.digest == D1


def test_processes_that_publish_at_once_leave_whole_adapters(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "support.publisher", str(tmp_path)]
    processes = [subprocess.Popen([*program, str(n), "4"], cwd=TESTS) for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    registry = in_folder(tmp_path)
    assert len(blob_digests(registry)) == 12
    for name in ("a", "b"):
        with registry.hold(registry.resolve(name)) as path:
            assert publisher.is_whole(path.read_bytes())


def test_many_publish_to_one_bucket_at_once(tmp_path: Path, bucket: Bucket) -> None:
    registries = [in_bucket(bucket.store, "shared", tmp_path / str(n)) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        running = [
            pool.submit(publisher.publish_all, registry, number, num_bundles=3)
            for number, registry in enumerate(registries)
        ]
        digests = {digest for done in running for digest in done.result()}
    assert set(blob_digests(registries[0])) == digests
    assert {registries[0].resolve(name) for name in ("a", "b")} <= digests
