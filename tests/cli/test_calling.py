"""A call goes to its server, its files are written, and what came of it is told."""

from pathlib import Path

import pytest

from diptych.cli.calling import Destination, Where, run
from diptych.cli.report import Report
from diptych.clients.calls import GenerateCall, Stage
from diptych.errors import InvalidRequest

CALL = GenerateCall(base=Stage(prompt="a red heart"), num_steps=2, seed=3)


def test_person_is_told_file_seed_and_settings(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = Destination(out=tmp_path / "a.png", output_format="png")
    run(Report(as_json=False), CALL, where=Where(server=server), destination=destination)
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a.png'}  seed 3\n"
    assert captured.err.startswith("128x128, 2 steps of euler, boundary 0.65; ")


def test_place_that_cannot_be_written_is_an_error_not_a_traceback(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    destination = Destination(out=tmp_path / "file" / "a.png", output_format="png")
    with pytest.raises(InvalidRequest, match="cannot write"):
        run(Report(as_json=True), CALL, where=Where(server=server), destination=destination)


def test_place_that_cannot_be_written_is_refused_before_any_server_is_asked(
    tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "file").write_bytes(b"")
    destination = Destination(out=tmp_path / "file" / "a.png", output_format="png")
    where = Where(server=f"127.0.0.1:{free_port}")
    with pytest.raises(InvalidRequest, match="cannot write"):
        run(Report(as_json=True), CALL, where=where, destination=destination)
