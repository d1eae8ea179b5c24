"""A folder is there whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.errors import NameTaken
from diptych.storage.whole_folder import whole_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from diptych.storage.whole_folder import whole_folder
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def fill_in_vain(final: Path) -> None:
    with whole_folder(final) as folder:
        (folder / "file").write_text("text")
        raise ZeroDivisionError


def fill_both(final: Path) -> None:
    with whole_folder(final) as later:
        (later / "later").touch()
        with whole_folder(final) as first:
            (first / "first").touch()


def test_it_appears_with_all_it_holds(tmp_path: Path) -> None:
    final = tmp_path / "above" / "made"
    with whole_folder(final) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("text")
        assert not final.exists()
    assert (final / "inner" / "file").read_text() == "text"


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fill_in_vain(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(NameTaken, match="made already points at something"):
        whole_folder(tmp_path / "made").__enter__()


def test_of_two_at_once_the_later_fails(tmp_path: Path) -> None:
    final = tmp_path / "made"
    with pytest.raises(NameTaken):
        fill_both(final)
    assert [path.name for path in final.iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    final = tmp_path / "made"
    subprocess.run([sys.executable, "-c", KILLED, str(final)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with whole_folder(final):
        assert list(tmp_path.glob("*/half")) == []
