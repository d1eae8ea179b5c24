"""Reading images goes on where nothing can be remembered of them."""

from pathlib import Path

import pytest

from diptych.cli.indexing import facts_cache, reading_progress
from diptych.cli.report import Report


def test_facts_are_remembered_under_the_home(isolated_home: Path) -> None:
    with facts_cache(Report(as_json=False)) as cache:
        assert cache is not None
    assert (isolated_home / "datasets" / "facts.sqlite").is_file()


def test_a_home_that_cannot_be_written_is_told(
    isolated_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    isolated_home.parent.mkdir(exist_ok=True)
    isolated_home.write_text("a file")
    with facts_cache(Report(as_json=False)) as cache:
        assert cache is None
    assert "nothing is remembered of images" in capsys.readouterr().err


def test_progress_is_shown_for_each_dataset() -> None:
    with reading_progress(Report(as_json=False)) as move:
        move("one", 1, 2)
        move("two", 1, 1)
        move("one", 2, 2)
