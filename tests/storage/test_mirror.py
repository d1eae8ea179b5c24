"""A mirror is whole or absent, and is what the store listed."""

import hashlib
from pathlib import Path

import pytest

from diptych.errors import CheckpointInvalid, SourceUnavailable
from diptych.storage.base import StoredObject
from diptych.storage.mirror import mirror


class MemoryStore:
    """A store in this process that counts downloads and may fail at one key."""

    location = "memory://weights"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.failing: str | None = None
        self.num_downloads = 0

    def list_objects(self, prefix: str) -> list[StoredObject]:
        return [
            StoredObject(key=key, size_bytes=len(data), etag=hashlib.sha256(data).hexdigest())
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        ]

    def download(self, stored: StoredObject, path: Path) -> None:
        if stored.key == self.failing:
            raise SourceUnavailable(self.location, "the line went dead")
        self.num_downloads += 1
        path.write_bytes(self.objects[stored.key])


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({"pair/model_index.json": b"{}", "pair/unet/weights": b"abc"})


def mirrored(store: MemoryStore, root: Path) -> Path:
    return mirror(store, store.list_objects("pair/"), prefix="pair/", root=root)


def test_files_have_their_names_below_the_prefix(store: MemoryStore, tmp_path: Path) -> None:
    folder = mirrored(store, tmp_path)
    assert (folder / "unet/weights").read_bytes() == b"abc"


def test_one_object_keeps_its_name(store: MemoryStore, tmp_path: Path) -> None:
    key = "pair/unet/weights"
    folder = mirror(store, store.list_objects(key), prefix=key, root=tmp_path)
    assert (folder / "weights").read_bytes() == b"abc"


def test_fetches_only_once(store: MemoryStore, tmp_path: Path) -> None:
    first = mirrored(store, tmp_path)
    assert mirrored(store, tmp_path) == first
    assert store.num_downloads == 2


def test_changed_objects_give_another_folder(store: MemoryStore, tmp_path: Path) -> None:
    first = mirrored(store, tmp_path)
    store.objects["pair/unet/weights"] = b"new"
    second = mirrored(store, tmp_path)
    assert second != first
    assert (second / "unet/weights").read_bytes() == b"new"


def test_a_failed_mirror_leaves_nothing(store: MemoryStore, tmp_path: Path) -> None:
    store.failing = "pair/unet/weights"
    with pytest.raises(SourceUnavailable, match="the line went dead"):
        mirrored(store, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("damage", [b"abd", b""])
def test_replaces_a_folder_that_was_damaged(
    store: MemoryStore, tmp_path: Path, damage: bytes
) -> None:
    folder = mirrored(store, tmp_path)
    (folder / "unet/weights").write_bytes(damage)
    assert (mirrored(store, tmp_path) / "unet/weights").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_replaces_a_folder_that_lost_a_file(store: MemoryStore, tmp_path: Path) -> None:
    (mirrored(store, tmp_path) / "unet/weights").unlink()
    assert (mirrored(store, tmp_path) / "unet/weights").is_file()


@pytest.mark.parametrize(
    "key", ["pair/../evil", "pair/a/../../evil", "pair/./a", "pair/a//b", "pair/a\\b", "pair/\0"]
)
def test_refuses_a_key_that_leaves_its_folder(tmp_path: Path, key: str) -> None:
    store = MemoryStore({key: b""})
    with pytest.raises(CheckpointInvalid, match="leaves its folder"):
        mirrored(store, tmp_path)
