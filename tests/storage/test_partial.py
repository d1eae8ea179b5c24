"""A file appears whole or not at all: the disk may fill up, the writer may be killed."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.errors import StoreFull
from diptych.storage.partial import room, sweep_partials, sync_folder, write_whole
from support import killed_writer
from support.full_disk import files_no_larger_than

LIMIT_BYTES = 2**16


@pytest.fixture
def writer(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield another process that is in the middle of writing below ``store``."""
    program = [sys.executable, killed_writer.__file__, str(tmp_path / "store"), "key"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_writes_all_pieces(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "er" / "file"
    assert write_whole(final, [b"ab", b"c"], partials=tmp_path / ".partial") == 3
    assert final.read_bytes() == b"abc"
    assert files(tmp_path) == ["file"]


def test_what_was_reserved_and_not_written_is_cut_off(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", [b"abc"], partials=tmp_path / ".partial", reserve_bytes=100)
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_written_file_cannot_be_written_to(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", [b"abc"], partials=tmp_path / ".partial")
    assert (tmp_path / "file").stat().st_mode & 0o222 == 0


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    pieces = [bytes(LIMIT_BYTES // 2)] * 3
    told = pytest.raises(StoreFull, match=rf"no room for {LIMIT_BYTES // 2 * 3} bytes")
    with files_no_larger_than(LIMIT_BYTES), told:
        write_whole(tmp_path / "file", pieces, partials=tmp_path / ".partial")
    assert files(tmp_path) == []


def test_a_disk_that_is_too_full_says_so_before_the_first_piece(tmp_path: Path) -> None:
    pieces = iter([b"never asked for"])
    with files_no_larger_than(LIMIT_BYTES), pytest.raises(StoreFull):
        write_whole(
            tmp_path / "file", pieces, partials=tmp_path / ".partial", reserve_bytes=2 * LIMIT_BYTES
        )
    assert list(pieces) == [b"never asked for"]
    assert files(tmp_path) == []


def test_another_error_of_the_disk_stays_itself() -> None:
    with pytest.raises(PermissionError), room("here", 1):
        raise PermissionError(13, "no")


def test_what_a_killed_writer_left_is_swept(
    writer: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    writer.kill()
    writer.wait()
    assert len(files(tmp_path / "store")) == 1
    assert sweep_partials(tmp_path / "store" / ".partial") == 1
    assert files(tmp_path / "store") == []


def test_what_a_living_writer_writes_is_left_alone(
    writer: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    assert sweep_partials(tmp_path / "store" / ".partial") == 0
    writer.communicate(b"\n")
    assert files(tmp_path / "store") == ["key"]


def test_there_is_nothing_to_sweep_where_there_is_no_folder(tmp_path: Path) -> None:
    assert sweep_partials(tmp_path / "nowhere") == 0


def test_a_partial_file_is_locked_while_it_is_written(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        (partial,) = (tmp_path / ".partial").iterdir()
        with partial.open("rb") as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield b"abc"

    assert write_whole(tmp_path / "file", pieces(), partials=tmp_path / ".partial") == 3


def test_a_folder_that_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")
