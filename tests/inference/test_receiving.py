"""What is on its way in lies in one private file and leaves nothing behind."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from diptych.digest import Digest
from diptych.errors import DigestMismatch, InvalidRequest
from diptych.inference.orders import Upload
from diptych.inference.receiving import PrivateFile, ReceivedFile, open_folder


def test_pieces_become_one_file(tmp_path: Path) -> None:
    with PrivateFile(tmp_path) as file:
        for piece in (b"one", b"two"):
            file.write(piece)
        assert (file.path.read_bytes(), file.seal()) == (b"onetwo", Digest.of_bytes(b"onetwo"))


def test_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with PrivateFile(tmp_path) as file:
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_closed_file_is_gone(tmp_path: Path) -> None:
    file = PrivateFile(tmp_path)
    file.write(b"x")
    file.close()
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_empty_piece_is_refused(tmp_path: Path) -> None:
    with (
        ReceivedFile(tmp_path, Upload(file_name="", size_bytes=3)) as file,
        pytest.raises(InvalidRequest, match="is empty"),
    ):
        file.write(b"")


def test_less_than_announced_is_refused(tmp_path: Path) -> None:
    with ReceivedFile(tmp_path, Upload(file_name="", size_bytes=3)) as file:
        file.write(b"xy")
        with pytest.raises(InvalidRequest, match="2 bytes came, announced were 3"):
            file.seal()


def test_other_bytes_than_announced_are_refused(tmp_path: Path) -> None:
    announced = Upload(file_name="", size_bytes=1, sha256=bytes(32))
    with ReceivedFile(tmp_path, announced) as file:
        file.write(b"x")
        with pytest.raises(DigestMismatch):
            file.seal()


def test_file_in_use_survives_the_opening_of_its_folder(tmp_path: Path) -> None:
    with PrivateFile(tmp_path) as file:
        open_folder(tmp_path)
        assert file.path.exists()


def test_file_that_nobody_holds_goes_when_the_folder_is_opened(tmp_path: Path) -> None:
    (tmp_path / "incoming-old").write_bytes(b"half")
    open_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_file_is_locked_while_it_is_open(tmp_path: Path) -> None:
    with PrivateFile(tmp_path) as file:
        other = os.open(file.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
