"""Names of experts that were trained here lead to whole folders, and nowhere else."""

import shutil
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.errors import InvalidRequest, ModelNotFound
from diptych.models.trained_experts import expert_folder, find_expert, point_at

ONE, TWO = Digest.of_bytes(b"one"), Digest.of_bytes(b"two")


def made(experts_dir: Path, name: str, digest: Digest, tenant: str = "default") -> Path:
    folder = expert_folder(experts_dir, name, digest, tenant=tenant)
    folder.mkdir(parents=True)
    point_at(experts_dir, name, digest, tenant=tenant)
    return folder


def test_a_name_means_what_it_was_pointed_at_last(tmp_path: Path) -> None:
    first, second = (made(tmp_path, "huggy", digest) for digest in (ONE, TWO))
    assert find_expert(tmp_path, "huggy") == second
    point_at(tmp_path, "huggy", ONE)
    assert find_expert(tmp_path, "huggy") == first


def test_a_name_may_begin_another(tmp_path: Path) -> None:
    folders = {name: made(tmp_path, name, ONE) for name in ("a", "a/base", "a/refiner")}
    assert {name: find_expert(tmp_path, name) for name in folders} == folders


def test_tenants_do_not_see_each_other_s(tmp_path: Path) -> None:
    made(tmp_path, "huggy", ONE, tenant="ours")
    with pytest.raises(ModelNotFound, match="experts/huggy"):
        find_expert(tmp_path, "huggy")


@pytest.mark.parametrize(
    "name", ["", "moon", "../default/huggy", "a/../huggy", "/huggy", ".refs", "huggy/", "a\0b"]
)
def test_a_name_that_means_nothing_is_not_found(name: str, tmp_path: Path) -> None:
    made(tmp_path, "huggy", ONE)
    with pytest.raises(ModelNotFound):
        find_expert(tmp_path, name)


def test_looking_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no expert was trained here"):
        find_expert(tmp_path / "experts", "huggy")
    assert not (tmp_path / "experts").exists()


def test_a_folder_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    shutil.rmtree(made(tmp_path, "huggy", ONE))
    with pytest.raises(ModelNotFound, match="is gone"):
        find_expert(tmp_path, "huggy")


@pytest.mark.parametrize("name", ["../huggy", ".refs/huggy", ""])
def test_no_folder_lies_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        expert_folder(tmp_path, name, ONE)
