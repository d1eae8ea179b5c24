"""Answers land where ``-o`` says, whole or not at all, and latents come back as they were."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diptych.cli.files import (
    check_destination,
    format_of,
    is_latents_file,
    picture_paths,
    read_latents,
    write_latents,
    write_whole,
)
from diptych.errors import InvalidRequest
from support.full_disk import files_no_larger_than


@pytest.mark.parametrize(
    ("flag", "out", "expected"),
    [
        (None, None, "png"),
        (None, "a.webp", "webp"),
        (None, "a.JPG", "jpeg"),
        (None, "a.safetensors", "latents"),
        (None, "folder", "png"),
        ("webp", "folder", "webp"),
        ("jpeg", "a.jpeg", "jpeg"),
    ],
)
def test_format_follows_flag_then_suffix(flag: str | None, out: str | None, expected: str) -> None:
    assert format_of(flag, Path(out) if out else None) == expected


def test_flag_and_suffix_that_disagree_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"a\.png is a png file .* asked for is webp"):
        format_of("webp", Path("a.png"))


def test_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="'tiff' is none of png, webp, jpeg, latents"):
        format_of("tiff", None)


def test_suffix_of_an_unknown_format_is_refused_unless_the_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"'\.gif' of .*a\.gif is none of \.png"):
        format_of(None, tmp_path / "a.gif")
    assert format_of("png", tmp_path / "a.gif") == "png"


def test_folder_with_a_dot_in_its_name_names_no_format(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    assert format_of(None, tmp_path / "v1.5") == "png"


@pytest.mark.parametrize(
    ("out", "seeds", "expected"),
    [
        (None, [7], ["diptych-7.png"]),
        ("new/", [7, 8], ["new/diptych-7.png", "new/diptych-8.png"]),
        ("a.png", [7], ["a.png"]),
        ("x/a.png", [7, 8], ["x/a-0.png", "x/a-1.png"]),
        ("a-{seed}.png", [7, 8], ["a-7.png", "a-8.png"]),
        ("{index}.png", [7, 8], ["0.png", "1.png"]),
        ("{index}.png", [7], ["0.png"]),
    ],
)
def test_paths_are_file_folder_or_pattern(
    out: str | None, seeds: list[int], expected: list[str]
) -> None:
    paths = picture_paths(Path(out) if out else None, seeds=seeds, output_format="png")
    assert paths == [Path(name) for name in expected]


def test_folder_that_exists_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "v1.5"
    folder.mkdir()
    paths = picture_paths(folder, seeds=[3], output_format="jpeg")
    assert paths == [folder / "diptych-3.jpg"]


def test_writing_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "a.png", b"bytes")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="out: cannot write"):
        write_whole(tmp_path / "file" / "a.png", b"bytes")


def test_write_that_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    with files_no_larger_than(1000), pytest.raises(InvalidRequest, match="cannot write"):
        write_whole(tmp_path / "a.png", bytes(5000))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.png": b"old"}


def test_name_as_long_as_a_folder_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 251}.png"
    write_whole(path, b"bytes")
    assert path.read_bytes() == b"bytes"


@pytest.mark.parametrize("out", ["file/a.png", "file/deep/a.png", f"{'n' * 300}.png"])
def test_destination_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="out: cannot write"):
        check_destination(tmp_path / out, output_format="png")


def test_checking_a_destination_makes_nothing(tmp_path: Path) -> None:
    check_destination(tmp_path / "new" / "deep" / "a.png", output_format="png")
    assert list(tmp_path.iterdir()) == []


def test_latents_come_back_bit_for_bit_with_their_settings(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).standard_normal((2, 4, 16, 16), dtype=np.float32)
    write_latents(tmp_path / "a.safetensors", latents, {"seed": 7, "boundary": 0.65, "eta": None})
    back = read_latents(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(back.latents, latents)
    assert back.metadata == {"seed": "7", "boundary": "0.65"}


def test_latents_file_is_plain_safetensors(tmp_path: Path) -> None:
    latents = np.zeros((1, 4, 16, 16), np.float32)
    write_latents(tmp_path / "a.safetensors", latents, {})
    loaded = load_file(tmp_path / "a.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in loaded.items()} == {
        "latents": ((1, 4, 16, 16), np.dtype(np.float32))
    }


def test_file_without_latents_is_refused(tmp_path: Path) -> None:
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidRequest, match="holds no tensor named 'latents'"):
        read_latents(tmp_path / "a.safetensors")


def test_latents_of_another_rank_are_refused(tmp_path: Path) -> None:
    save_file({"latents": np.zeros((4, 16, 16), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidRequest, match=r"F32 \[4, 16, 16\], expected float32 \[N, 4"):
        read_latents(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F64", 8), ("I32", 4)])
def test_latents_of_another_dtype_are_refused(tmp_path: Path, dtype: str, size: int) -> None:
    num_bytes = 256 * size
    tensor = {"dtype": dtype, "shape": [1, 4, 8, 8], "data_offsets": [0, num_bytes]}
    header = json.dumps({"latents": tensor}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(num_bytes)
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(InvalidRequest, match=rf"{dtype} \[1, 4, 8, 8\], expected float32"):
        read_latents(tmp_path / "a.safetensors")


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_file_that_is_not_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(InvalidRequest, match="latents: "):
        read_latents(tmp_path / "a.safetensors")


def test_missing_latents_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"gone\.safetensors"):
        read_latents(tmp_path / "gone.safetensors")


def test_latents_are_told_by_suffix() -> None:
    assert [is_latents_file(Path(p)) for p in ("a.safetensors", "a.png")] == [True, False]
