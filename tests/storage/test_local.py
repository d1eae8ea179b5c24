"""A folder of blobs holds whole files only, whoever wrote to it and however that ended."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from diptych.storage.local import LocalBlobs
from support import killed_writer

DATA = bytes(range(256)) * 10_000


def test_is_called_by_its_folder(tmp_path: Path) -> None:
    assert LocalBlobs(tmp_path).location == str(tmp_path)


def test_a_blob_is_a_file(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("a/b", [b"123"])
    assert blobs.local_path("a/b").read_bytes() == b"123"


def test_opens_a_folder_again(tmp_path: Path) -> None:
    LocalBlobs(tmp_path).put("a/b", [b"123"])
    assert [info.key for info in LocalBlobs(tmp_path).listing("")] == ["a/b"]


def test_a_writer_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    program = [sys.executable, killed_writer.__file__, str(tmp_path), "key"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    blobs = LocalBlobs(tmp_path)
    assert blobs.find("key") is None
    assert list(tmp_path.rglob("*.*")) == [tmp_path / ".partial"]
    assert list((tmp_path / ".partial").iterdir()) == []


def test_a_reader_ends_with_what_it_began(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("a", [DATA])
    reading = blobs.read("a")
    first = next(reading)
    blobs.put("a", [b"new"])
    blobs.delete("a")
    assert first + b"".join(reading) == DATA


def test_partial_files_are_not_listed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)

    def pieces() -> Iterator[bytes]:
        assert list(blobs.listing("")) == []
        yield b"1"

    assert blobs.put("a", pieces()) == 1
