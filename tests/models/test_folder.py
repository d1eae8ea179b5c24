"""A folder in diffusers' layout is opened only when every part is there and safe to read."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from diptych.errors import CheckpointInvalid, PickleRefused
from diptych.models.folder import open_folder

UNET = "unet/diffusion_pytorch_model.safetensors"


def edit_json(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(value))


def shard(folder: Path, names: dict[str, str] | None = None) -> None:
    """Split the VAE's weights over two files with an index; ``names`` changes what it says."""
    whole = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    half = len(tensors) // 2
    files = {"one.safetensors": list(tensors)[:half], "two.safetensors": list(tensors)[half:]}
    for file, keys in files.items():
        save_file({key: tensors[key] for key in keys}, folder / "vae" / file)
    weight_map = {key: file for file, keys in files.items() for key in keys} | (names or {})
    index = folder / "vae/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_opens_every_part_of_a_base(base_folder: Path) -> None:
    checkpoint = open_folder(base_folder, "here")
    assert set(checkpoint.parts) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert checkpoint.scheduler["prediction_type"] == "v_prediction"


def test_a_refiner_without_a_first_encoder_needs_none(base_folder: Path) -> None:
    edit_json(base_folder / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    checkpoint = open_folder(base_folder, "here")
    assert set(checkpoint.parts) == {"unet", "vae", "text_encoder_2"}
    assert set(checkpoint.tokenizers) == {"text_encoder_2"}


def test_names_every_missing_file_at_once(base_folder: Path) -> None:
    for name in (UNET, "vae/config.json", "tokenizer_2/merges.txt"):
        (base_folder / name).unlink()
    with pytest.raises(CheckpointInvalid) as raised:
        open_folder(base_folder, "here")
    assert raised.value.problem == f"misses tokenizer_2/merges.txt, {UNET}, vae/config.json"


def test_a_folder_of_something_else_misses_its_index(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"model_index\.json"):
        open_folder(tmp_path, "here")


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl", ".PT"])
def test_refuses_a_part_that_comes_as_a_pickle_by_name(base_folder: Path, suffix: str) -> None:
    (base_folder / UNET).unlink()
    (base_folder / "unet" / f"weights{suffix}").write_bytes(b"never opened")
    with pytest.raises(PickleRefused, match=f"unet/weights{suffix} is a pickle"):
        open_folder(base_folder, "here")


def test_refuses_a_folder_that_holds_only_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"never opened")
    with pytest.raises(PickleRefused, match=r"model\.ckpt"):
        open_folder(tmp_path, "here")


def test_a_pickle_beside_safe_weights_is_not_read(base_folder: Path) -> None:
    (base_folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"never opened")
    stored = open_folder(base_folder, "here").parts["unet"].tensors.values()
    assert {tensor.path.name for tensor in stored} == {"diffusion_pytorch_model.safetensors"}


def test_takes_fp16_weights_where_there_are_no_others(base_folder: Path) -> None:
    (base_folder / UNET).rename(base_folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert open_folder(base_folder, "here").parts["unet"].tensors


def test_joins_shards(base_folder: Path) -> None:
    whole = open_folder(base_folder, "here").parts["vae"].tensors.keys()
    shard(base_folder)
    assert open_folder(base_folder, "here").parts["vae"].tensors.keys() == whole


@pytest.mark.parametrize(
    "name",
    ["../evil.safetensors", "/etc/evil.safetensors", "a/b.safetensors", "x.bin", ".safetensors"],
)
def test_never_opens_a_shard_outside_its_folder(base_folder: Path, name: str) -> None:
    shard(base_folder, {"encoder.conv_in.weight": name})
    with pytest.raises(CheckpointInvalid, match="not a file beside it"):
        open_folder(base_folder, "here")


def test_names_a_missing_shard(base_folder: Path) -> None:
    shard(base_folder)
    (base_folder / "vae/two.safetensors").unlink()
    with pytest.raises(CheckpointInvalid, match=r"misses vae/two\.safetensors"):
        open_folder(base_folder, "here")


def test_refuses_a_tensor_that_two_shards_hold(base_folder: Path) -> None:
    shard(base_folder)
    one = load_file(base_folder / "vae/one.safetensors")
    two = load_file(base_folder / "vae/two.safetensors")
    save_file(two | dict(list(one.items())[:1]), base_folder / "vae/two.safetensors")
    with pytest.raises(CheckpointInvalid, match="is in two files of vae"):
        open_folder(base_folder, "here")


def test_refuses_an_index_without_a_map(base_folder: Path) -> None:
    shard(base_folder)
    (base_folder / "vae/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointInvalid, match="has no weight_map"):
        open_folder(base_folder, "here")


def test_names_the_file_whose_header_is_corrupt(base_folder: Path) -> None:
    content = (base_folder / UNET).read_bytes()
    (base_folder / UNET).unlink()
    (base_folder / UNET).write_bytes(content[:-100])
    with pytest.raises(CheckpointInvalid, match=r"diffusion_pytorch_model\.safetensors.*truncated"):
        open_folder(base_folder, "here")


def test_names_the_configuration_that_is_no_json(base_folder: Path) -> None:
    (base_folder / "vae/config.json").unlink()
    (base_folder / "vae/config.json").write_text("{")
    with pytest.raises(CheckpointInvalid, match=r"vae/config\.json"):
        open_folder(base_folder, "here")
