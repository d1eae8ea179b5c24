"""Roots say what is needed, and are not believed when they are damaged."""

from pathlib import Path

import pytest

from diptych.embeddings.packs import Packs
from diptych.embeddings.roots import Roots
from diptych.errors import BlobCorrupt, BlobNotFound, InvalidRequest
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs
from support.packed import key_of


@pytest.fixture
def roots(blobs: BlobStore) -> Roots:
    return Roots(Packs(blobs, namespace="emb"))


def test_a_root_is_read_as_it_was_written(roots: Roots) -> None:
    keys = [key_of(number) for number in (3, 1, 2, 1)]
    assert roots.write_root("dataset/cats", keys) == 3
    assert roots.read_root("dataset/cats") == sorted(set(keys))
    assert [(root.name, root.num_keys) for root in roots.roots()] == [("dataset/cats", 3)]


def test_the_last_to_write_a_root_wins(roots: Roots) -> None:
    roots.write_root("a", [key_of(1)])
    roots.write_root("a", [])
    assert roots.read_root("a") == []
    assert roots.needed().shape == (0, 4)


def test_all_roots_together_say_what_is_needed(roots: Roots) -> None:
    roots.write_root("a", [key_of(1), key_of(2)])
    roots.write_root("b", [key_of(2)])
    expected = [bytes.fromhex(key_of(number).hex) for number in (1, 2, 2)]
    assert sorted(key.tobytes() for key in roots.needed()) == sorted(expected)


def test_a_root_that_was_deleted_is_gone(roots: Roots) -> None:
    roots.write_root("a", [key_of(1)])
    roots.delete_root("a")
    roots.delete_root("a")
    assert roots.roots() == []
    with pytest.raises(BlobNotFound):
        roots.read_root("a")


def test_a_root_cannot_lie_elsewhere(roots: Roots) -> None:
    with pytest.raises(InvalidRequest):
        roots.write_root("../packs/x", [])


@pytest.mark.parametrize("size", [0, 10, 47, 50, 111])
def test_a_root_that_was_cut_is_not_believed(tmp_path: Path, size: int) -> None:
    roots = Roots(Packs(LocalBlobs(tmp_path), namespace="emb"))
    roots.write_root("a", [key_of(1), key_of(2)])
    path = tmp_path / "emb" / "roots" / "a"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BlobCorrupt):
        roots.needed()
