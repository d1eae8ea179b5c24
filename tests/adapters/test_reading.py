"""Whatever comes in is known by its content, read whole, or refused by name."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from diptych.adapters.adapter import Adapter, Component, LearnedToken, LowRank, Stage, Target
from diptych.adapters.bundle import digest_of, to_bytes
from diptych.adapters.reading import Overrides, read_adapter
from diptych.adapters.writing import write_adapter
from diptych.errors import AdapterInvalid, PickleRefused
from support.made_adapters import noise

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TARGET = Target(component=Component.UNET, module=QUERY)
KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
TOKEN = LearnedToken(vectors={Component.TEXT_ENCODER: noise(1, 768)})
ADAPTER = Adapter(
    targets={TARGET: LowRank(down=noise(2, 3), up=noise(4, 2), alpha=1.0)},
    tokens={"<s0>": TOKEN},
    trigger_words=("huggy",),
    metadata={"ss_epoch": "1"},
)


def pair(prefix: str, *ends: str, rank: int = 2) -> dict[str, Tensor]:
    down, up = ends
    return {f"{prefix}.{down}": noise(rank, 3), f"{prefix}.{up}": noise(4, rank)}


PEFT_PAIR = pair(f"unet.{QUERY}", "lora_A.weight", "lora_B.weight")
SPELLINGS = {
    "peft": PEFT_PAIR,
    "diffusers": pair(f"unet.{QUERY}", "lora.down.weight", "lora.up.weight"),
    "oldest": pair(f"unet.{QUERY[:-5]}.processor", "to_q_lora.down.weight", "to_q_lora.up.weight"),
    "kohya": pair(KOHYA, "lora_down.weight", "lora_up.weight"),
    "sgm": pair(
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        "lora_down.weight",
        "lora_up.weight",
    ),
}


@pytest.mark.parametrize("tensors", SPELLINGS.values(), ids=SPELLINGS)
def test_one_update_in_many_spellings_is_one_adapter(tensors: dict[str, Tensor]) -> None:
    found = read_adapter(save(tensors), name="a.safetensors")
    expected = Adapter(targets={TARGET: LowRank(down=noise(2, 3), up=noise(4, 2), alpha=2.0)})
    assert digest_of(found) == digest_of(expected)


@pytest.mark.parametrize("target_format", ["bundle", "kohya"])
def test_a_file_of_updates_and_tokens_gives_both(target_format: str, tmp_path: Path) -> None:
    ((name, data),) = write_adapter(ADAPTER, target_format).items()
    (tmp_path / name).write_bytes(data)
    assert digest_of(read_adapter(data, name=name)) == digest_of(ADAPTER)
    assert digest_of(read_adapter(tmp_path / name, name=name)) == digest_of(ADAPTER)


def test_token_rows_beside_updates_in_one_file_are_read() -> None:
    found = read_adapter(save(PEFT_PAIR | {"clip_l": noise(2, 768)}), name="a.safetensors")
    assert (len(found.targets), list(found.tokens)) == (1, ["<s0>", "<s1>"])


def test_a_file_of_tokens_alone_is_an_adapter() -> None:
    found = read_adapter(save({"clip_l": noise(2, 768)}), name="my cat.safetensors")
    assert (dict(found.targets), list(found.tokens)) == ({}, ["my cat"])


def test_what_the_caller_knows_counts_before_what_the_file_says() -> None:
    known = Overrides(
        family="nano",
        stage=Stage.REFINER,
        zero_snr=False,
        timestep_range=(0, 349),
        trigger_words=("x",),
    )
    found = read_adapter(to_bytes(ADAPTER), name="a", overrides=known)
    assert (found.made_for.family, found.made_for.stage) == ("nano", Stage.REFINER)
    assert (found.made_for.zero_snr, found.made_for.timestep_range) == (False, (0, 349))
    assert found.trigger_words == ("x",)


def test_what_the_caller_does_not_know_is_left_as_it_was() -> None:
    found = read_adapter(to_bytes(ADAPTER), name="a", overrides=Overrides())
    assert digest_of(found) == digest_of(ADAPTER)


def test_the_caller_may_name_tokens() -> None:
    data, known = save({"clip_l": noise(2, 768)}), Overrides(token_texts=("<a>", "<b>"))
    assert list(read_adapter(data, name="a", overrides=known).tokens) == ["<a>", "<b>"]


@pytest.mark.parametrize("data", [to_bytes(ADAPTER), save(PEFT_PAIR)], ids=["named", "none"])
def test_names_for_tokens_that_have_one_or_are_not_there_are_refused(data: bytes) -> None:
    with pytest.raises(AdapterInvalid, match="has no nameless learned tokens"):
        read_adapter(data, name="a", overrides=Overrides(token_texts=("<a>",)))


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_diffusers_is_one_adapter(tmp_path: Path) -> None:
    folder = in_folder(tmp_path, write_adapter(ADAPTER, "diffusers"))
    assert digest_of(read_adapter(folder, name="huggy")) == digest_of(ADAPTER)


PEFT_FILES = {
    "adapter_model.safetensors": save(
        pair(f"base_model.model.{QUERY}", "lora_A.weight", "lora_B.weight")
    ),
    "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}).encode(),
}


def test_a_folder_of_peft_has_its_configurations_scale(tmp_path: Path) -> None:
    found = read_adapter(in_folder(tmp_path, PEFT_FILES), name="huggy")
    assert found.targets[TARGET].scale == 0.5


BAD_FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "empty": ({"README.md": b""}, "holds no .safetensors file"),
    "pickle": ({"pytorch_lora_weights.bin": b""}, "pytorch_lora_weights.bin is a pickle"),
    "PEFT pickle": (
        {"adapter_model.bin": b"", "adapter_config.json": b"{}"},
        "adapter_model.bin is a pickle",
    ),
    "no weights": ({"adapter_config.json": b"{}"}, "cannot be read"),
    "bad config": ({**PEFT_FILES, "adapter_config.json": b"["}, "no valid JSON"),
    "long config": ({**PEFT_FILES, "adapter_config.json": b" " * 2**21}, "over the limit"),
    "twice": (
        {"a.safetensors": save(PEFT_PAIR), "b.safetensors": save(PEFT_PAIR)},
        "in more than one of its files",
    ),
    "tokens twice": (
        {
            name: save({"clip_l": noise(1, 768)})
            for name in ("a_emb.safetensors", "b_emb.safetensors")
        },
        "token '<s0>' in more than one place",
    ),
}


@pytest.mark.parametrize(("files", "problem"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_refuses_a_folder_that_is_no_adapter(
    tmp_path: Path, files: dict[str, bytes], problem: str
) -> None:
    with pytest.raises((AdapterInvalid, PickleRefused), match=problem):
        read_adapter(in_folder(tmp_path, files), name="huggy")


def torch_archive(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.bin", "folder/a.pt", "a.CKPT", "a.pkl"])
def test_refuses_a_pickle_by_the_name_it_is_given(name: str) -> None:
    with pytest.raises(PickleRefused, match="is a pickle"):
        read_adapter(save(PEFT_PAIR), name=name)


def test_refuses_a_pickle_under_an_honest_name(tmp_path: Path) -> None:
    with pytest.raises(PickleRefused, match="its content is a pickle"):
        read_adapter(torch_archive(tmp_path / "x"), name="a.safetensors")


def header(entries: object, *, length: int | None = None) -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def spoilt(value: float) -> dict[str, Tensor]:
    tensors = {key: tensor.clone() for key, tensor in PEFT_PAIR.items()}
    tensors[f"unet.{QUERY}.lora_B.weight"][0, 0] = value
    return tensors


SPAN = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "text": (b"<html>not found</html>", "the limit is"),
    "no tensors": (save({}), "neither targets nor learned tokens"),
    "cut": (save(PEFT_PAIR)[:-1], "truncated"),
    "100 GB header": (header({}, length=100 * 10**9), "claims a header of 100000000000 bytes"),
    "100 GB tensor": (
        header({"a": {"dtype": "F32", "shape": [25 * 10**9], "data_offsets": [0, 10**11]}}),
        "truncated",
    ),
    "overlap": (header({"a": SPAN, "b": SPAN}) + bytes(8), "overlaps"),
    "key twice": (struct.pack("<Q", 18) + b'{"a": {}, "a": {}}', "a key occurs twice"),
    "deep": (struct.pack("<Q", 100_001) + b"{" + b"[" * 100_000, "no valid JSON"),
    "NaN": (save(spoilt(float("nan"))), "to_q up holds NaN or infinite values"),
    "infinity": (save(spoilt(float("-inf"))), "to_q up holds NaN or infinite values"),
    "unknown": (
        save({f"model.layer{index}.weight": noise(2) for index in range(5)}),
        "unknown keys 'model.layer0.weight', 'model.layer1.weight', .* and 2 more",
    ),
    "mixed": (save(SPELLINGS["kohya"] | SPELLINGS["peft"]), "is unknown|no module"),
    "rank": (
        save(pair(f"unet.{QUERY}", "lora_A.weight", "lora_B.weight", rank=129)),
        "rank 129, the limit is 128",
    ),
    "empty": (save(PEFT_PAIR | {"unet.x.lora_A.weight": torch.zeros(0, 4)}), "is empty"),
    "integers": (
        save({key: tensor.to(torch.int32) for key, tensor in PEFT_PAIR.items()}),
        "holds I32, expected F64, F32, F16 or BF16",
    ),
    "shapes": (
        save(PEFT_PAIR | {f"unet.{QUERY}.lora_B.weight": noise(4, 3)}),
        r"down \[2, 3\] and up \[4, 3\], expected",
    ),
    "NUL": (save(pair("unet.a\0b", "lora_A.weight", "lora_B.weight")), "no module's name"),
    "path": (save(pair("unet.../../etc", "lora_A.weight", "lora_B.weight")), "no module's name"),
    "long": (save(pair("unet." + "a" * 10_000, "lora_A.weight", "lora_B.weight")), "unet.aaa"),
}


@pytest.mark.parametrize(("data", "problem"), BAD.values(), ids=BAD)
def test_refuses_bytes_that_are_no_adapter(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    for given_as in (data, path):
        with pytest.raises(AdapterInvalid, match=problem) as raised:
            read_adapter(given_as, name="huggy")
        assert str(raised.value).startswith("adapter huggy: ")
        assert len(str(raised.value)) < 600


@settings(deadline=None)
@given(st.data(), st.sampled_from(["bundle", "kohya"]))
def test_a_spoilt_file_is_read_or_refused_in_our_own_words(data: Any, target_format: str) -> None:
    (raw,) = write_adapter(ADAPTER, target_format).values()
    size = int.from_bytes(raw[:8], "little")
    position = data.draw(st.integers(0, size + 20))
    value = data.draw(st.integers(0, 255))
    changed = raw[:position] + bytes([value]) + raw[position + 1 :]
    try:
        read_adapter(changed, name="huggy")
    except (AdapterInvalid, PickleRefused) as error:
        assert "huggy" in str(error)  # noqa: PT017 - reading may as well succeed
