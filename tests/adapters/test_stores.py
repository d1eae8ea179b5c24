"""What lies where, and what its values say."""

from datetime import timedelta
from pathlib import Path

import pytest

from diptych.adapters.stores import GRACE, Mark, Pointer
from diptych.digest import Digest
from diptych.errors import InvalidRequest, SourceUnavailable
from diptych.storage.refs import Ref
from support.shelves import NOON, in_memory

DIGEST = Digest.of_bytes(b"huggy")


def test_a_pointer_reads_what_it_wrote() -> None:
    pointer = Pointer(digest=DIGEST, moved_at=NOON)
    assert Pointer.of(Ref(key="k", value=pointer.to_bytes(), version="1")) == pointer


def test_a_mark_reads_what_it_wrote() -> None:
    mark = Mark(since=NOON, is_going=True)
    assert Mark.of(Ref(key="k", value=mark.to_bytes(), version="1")) == mark


def test_keys_begin_with_the_tenant(tmp_path: Path) -> None:
    stores = in_memory(tmp_path).stores
    keys = [
        stores.name_key("acme", "a/b", "v1"),
        stores.card_key("acme", DIGEST),
        stores.mark_key("acme", DIGEST),
    ]
    assert keys == ["acme/names/a/b:v1", f"acme/cards/{DIGEST.hex}", f"acme/marks/{DIGEST.hex}"]


@pytest.mark.parametrize("tenant", ["", "..", "a/b", "A"])
def test_refuses_a_tenant_that_is_no_part_of_a_key(tmp_path: Path, tenant: str) -> None:
    stores = in_memory(tmp_path).stores
    with pytest.raises(InvalidRequest):
        stores.content(tenant)
    with pytest.raises(InvalidRequest):
        stores.name_key(tenant, "a", "b")


@pytest.mark.parametrize(
    "mark", [Mark(since=NOON), Mark(since=NOON - GRACE, is_going=True)], ids=["waiting", "stale"]
)
def test_spares_what_is_not_going(tmp_path: Path, mark: Mark) -> None:
    stores = in_memory(tmp_path).stores
    key = stores.mark_key("default", DIGEST)
    stores.refs.write(key, mark.to_bytes(), expected=None)
    stores.spare("default", DIGEST, now=NOON)
    assert stores.refs.read(key) is None


def test_what_is_going_cannot_be_spared(tmp_path: Path) -> None:
    stores = in_memory(tmp_path).stores
    mark = Mark(since=NOON, is_going=True)
    stores.refs.write(stores.mark_key("default", DIGEST), mark.to_bytes(), expected=None)
    with pytest.raises(SourceUnavailable, match="is being swept away"):
        stores.spare("default", DIGEST, now=NOON + timedelta(seconds=5))
