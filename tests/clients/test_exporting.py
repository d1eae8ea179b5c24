"""An export appears whole or not at all, and never outside its folder."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.clients.exporting import ExportWriter
from diptych.errors import InvalidRequest, ResponseCorrupt
from diptych.v1 import adapters_pb2 as pb


def messages(name: str, data: bytes, **changed: object) -> Iterator[pb.ExportAdapterResponse]:
    facts: dict[str, object] = {
        "name": name,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).digest(),
    }
    file = pb.ExportedFile(**facts | changed)  # type: ignore[arg-type]
    yield pb.ExportAdapterResponse(file=file)
    for at in range(len(data)):
        yield pb.ExportAdapterResponse(chunk=data[at : at + 1])


def exported(out: Path, *files: Iterator[pb.ExportAdapterResponse]) -> list[Path]:
    with ExportWriter(out) as writer:
        for file in files:
            for message in file:
                writer.feed(message)
        return writer.finish()


def test_single_file_is_written_as_named(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.safetensors"
    assert exported(out, messages("adapter.safetensors", b"data")) == [out]
    assert out.read_bytes() == b"data"


def test_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    out.write_bytes(b"old")
    exported(out, messages("adapter.safetensors", b"data"))
    assert out.read_bytes() == b"data"


def test_several_files_make_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "peft"
    exported(out, messages("unet/config.json", b"{}"), messages("unet/a.safetensors", b"x"))
    assert sorted(path.name for path in (out / "unet").iterdir()) == [
        "a.safetensors",
        "config.json",
    ]


def test_nothing_but_the_export_is_left(tmp_path: Path) -> None:
    exported(tmp_path / "a.safetensors", messages("b.safetensors", b"data"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_several_files_do_not_fit_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="name a folder"):
        exported(tmp_path / "a.safetensors", messages("a", b"x"), messages("b", b"y"))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there already"):
        exported(tmp_path, messages("a", b"x"))


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "", "a\\b", "a\0b"])
def test_name_that_leaves_the_folder_is_corrupt(name: str, tmp_path: Path) -> None:
    with pytest.raises(ResponseCorrupt):
        exported(tmp_path / "out", messages(name, b"x"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", [{"sha256": bytes(32)}, {"size_bytes": 2}, {"size_bytes": -1}])
def test_file_that_is_not_what_was_announced_is_corrupt(
    changed: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(ResponseCorrupt):
        exported(tmp_path / "out", messages("a", b"xyz", **changed))
    assert list(tmp_path.iterdir()) == []


def test_chunk_without_a_file_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(ResponseCorrupt):
        exported(tmp_path / "out", iter([pb.ExportAdapterResponse(chunk=b"x")]))


def test_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResponseCorrupt):
        exported(tmp_path / "out", messages("a", b"xyz", size_bytes=9))
    assert list(tmp_path.iterdir()) == []
