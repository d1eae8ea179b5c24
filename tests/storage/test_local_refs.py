"""A folder of refs is shared by processes that lose no update and see no half-written value."""

import subprocess
import sys
from pathlib import Path

from diptych.storage.local_refs import LocalRefs
from support import counting_writer


def test_is_called_by_its_folder(tmp_path: Path) -> None:
    assert LocalRefs(tmp_path).location == str(tmp_path)


def test_of_many_processes_none_loses_an_update(tmp_path: Path) -> None:
    program = [sys.executable, counting_writer.__file__, str(tmp_path), "25"]
    processes = [subprocess.Popen(program) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    found = LocalRefs(tmp_path).read("n")
    assert found is not None
    assert found.value == b"100"


def test_opens_a_folder_again(tmp_path: Path) -> None:
    LocalRefs(tmp_path).write("a/b:c", b"1", expected=None)
    assert [stamp.key for stamp in LocalRefs(tmp_path).listing("", limit=9)] == ["a/b:c"]


def test_a_name_may_be_the_beginning_of_another(tmp_path: Path) -> None:
    refs = LocalRefs(tmp_path)
    for key in ("a:x", "a/b:x", "a/b/c:x"):
        assert refs.write(key, b"1", expected=None)
    assert [stamp.key for stamp in refs.listing("a", limit=9)] == ["a/b/c:x", "a/b:x", "a:x"]


def test_a_value_below_a_value_is_no_value(tmp_path: Path) -> None:
    refs = LocalRefs(tmp_path)
    refs.write("a", b"1", expected=None)
    assert refs.read("a/b") is None
