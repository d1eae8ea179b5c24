"""A derived folder is a checkpoint: the base's, with another UNet."""

from pathlib import Path

import torch

from diptych.models.derived_folder import copy_other_parts, write_json, write_part
from diptych.models.folder import open_folder
from diptych.models.parts import Checkpoint, fingerprint_part
from diptych.models.tensor_stream import read_one
from support.small_experts import make_expert, stored, write_shards


def derive(base: Path, folder: Path) -> Checkpoint:
    """Write ``folder`` with the base's UNet, doubled."""
    tensors = stored(base)
    part = open_folder(base, "base").parts["unet"]
    copy_other_parts(base, folder)
    write_part(part, folder, lambda name: tensors[name] * 2, {"said": "so"})
    return open_folder(folder, "derived")


def test_it_has_the_weights_it_was_given(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    derive(base, tmp_path / "derived")
    found, given = stored(tmp_path / "derived"), stored(base)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], 2 * given[name]) for name in given)


def test_it_has_the_bases_other_parts(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    derive(base, tmp_path / "derived")
    ours, theirs = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
        for root in (tmp_path / "derived", base)
    )
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    assert ours.pop(weights) != theirs.pop(weights)
    assert ours == theirs


def test_any_part_may_be_replaced(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    (base / "text_encoder" / "model.fp16.safetensors").write_bytes(b"of the base")
    kept = copy_other_parts(base, tmp_path / "derived", replaced=("text_encoder",))
    assert "unet" in kept
    part = open_folder(base, "base").parts["text_encoder"]
    folder = tmp_path / "derived" / "text_encoder"
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    write_part(part, folder.parent, lambda name: read_one(part, part.tensors[name]), {})
    assert fingerprint_part(open_folder(folder.parent, "d").parts["text_encoder"]) == (
        fingerprint_part(part)
    )


def test_names_of_the_parts_are_returned(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    names = ["scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"]
    assert copy_other_parts(base, tmp_path / "derived") == names


def test_weights_are_linked_and_settings_copied(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    copy_other_parts(base, tmp_path / "derived")
    vae, config = "vae/diffusion_pytorch_model.safetensors", "vae/config.json"
    assert (tmp_path / "derived" / vae).samefile(base / vae)
    assert not (tmp_path / "derived" / config).samefile(base / config)


def test_a_cache_of_links_is_followed(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    (base / "vae" / "config.json").rename(tmp_path / "blob")
    (base / "vae" / "config.json").symlink_to(tmp_path / "blob")
    copy_other_parts(base, tmp_path / "derived")
    assert not (tmp_path / "derived" / "vae" / "config.json").is_symlink()


def test_pickles_and_the_bases_shards_stay_behind(tmp_path: Path) -> None:
    base = make_expert(tmp_path / "base")
    write_shards(base)
    (base / "vae" / "diffusion_pytorch_model.bin").touch()
    copy_other_parts(base, tmp_path / "derived")
    assert not list((tmp_path / "derived").rglob("*.bin"))
    assert [path.name for path in (tmp_path / "derived" / "unet").iterdir()] == ["config.json"]


def test_a_small_file_is_written(tmp_path: Path) -> None:
    write_json("{}", tmp_path / "said.json")
    assert [path.name for path in tmp_path.iterdir()] == ["said.json"]
