"""``diptych train`` over the real service, whose workers are fake."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from diptych.clients.config import ClientConfig
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobCall
from support.job_texts import SHORT
from support.training_server import training_server

Invoke = Callable[..., Result]
SLOW = json.dumps({"steps": 10_000, "step_s": 0.02})
FAILING = json.dumps({"fail_at": 1, "is_users": True})
GONE = "127.0.0.1:1"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A tenant without jobs."""

    config: ClientConfig
    flags: tuple[str, ...]

    def create(self, spec: str) -> str:
        """Queue a job and return its id."""
        with TrainingClient(self.config) as client:
            job = client.create(JobCall(spec=spec)).job
        assert job is not None
        return job.job_id


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Caller]]:
    """Yield callers of one server."""
    folder = tmp_path_factory.mktemp("training")

    def all_of_them(address: str, tenants: Iterator[tuple[str, ClientConfig]]) -> Iterator[Caller]:
        for tenant, config in tenants:
            token = folder / f"{tenant}.token"
            token.write_text(config.token or "")
            yield Caller(config=config, flags=("--server", address, "--token-file", str(token)))

    with training_server(folder / "home", max_running=4) as served:
        yield all_of_them(served.server.address, served.tenants)


@pytest.fixture
def caller(callers: Iterator[Caller]) -> Caller:
    """Return one that has no jobs yet."""
    return next(callers)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """Return a file with a job."""
    path = tmp_path / "job.yaml"
    path.write_text(SHORT)
    return path


def lines_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_job_is_handed_in_and_watched_to_its_end(
    invoke: Invoke, caller: Caller, job_file: Path
) -> None:
    result = invoke("train", "submit", job_file, "--watch", *caller.flags)
    assert result.exit_code == 0, result.output
    lines = [line.split("  ", maxsplit=1)[-1] for line in result.stdout.splitlines()]
    assert "succeeded" in lines[-1] or "made" in "".join(lines)
    assert any(line.startswith("single: step") for line in lines)


def test_programs_get_the_job_and_then_a_line_for_each_event(
    invoke: Invoke, caller: Caller, job_file: Path
) -> None:
    result = invoke("train", "submit", job_file, "--watch", "--json", *caller.flags)
    first, *events = lines_of(result)
    assert first["job"]["state"] == "queued"
    assert [one["number"] for one in events] == list(range(1, len(events) + 1))
    assert {"state", "prepared", "progress", "result"} <= {one["kind"] for one in events}
    assert (events[-1]["kind"], events[-1]["state"]) == ("state", "succeeded")


def test_watching_goes_on_from_an_event(invoke: Invoke, caller: Caller, job_file: Path) -> None:
    handed = invoke("train", "submit", job_file, "--watch", "--json", *caller.flags)
    first, *events = lines_of(handed)
    job_id = first["job"]["job_id"]
    again = lines_of(invoke("train", "watch", job_id, "--after", 2, "--json", *caller.flags))
    assert again == events[2:]


def test_a_job_that_failed_ends_the_watch_with_status_1(invoke: Invoke, caller: Caller) -> None:
    job_id = caller.create(FAILING)
    result = invoke("train", "watch", job_id, *caller.flags)
    assert result.exit_code == 1
    assert "error: " in result.stdout
    shown = invoke("train", "show", job_id, *caller.flags)
    assert "failed" in shown.stdout


def test_jobs_are_listed_shown_paused_resumed_cancelled_and_removed(
    invoke: Invoke, invoke_json: Callable[..., dict[str, Any]], caller: Caller
) -> None:
    job_id = caller.create(SLOW)
    (listed,) = invoke_json("train", "list", *caller.flags)["jobs"]
    assert listed["job_id"] == job_id
    narrow = invoke("train", "list", "--prefix", "hug", *caller.flags, columns=50)
    assert job_id in narrow.stdout
    assert invoke_json("train", "pause", job_id, *caller.flags)["job_id"] == job_id
    while invoke_json("train", "show", job_id, *caller.flags)["state"] != "paused":
        pass
    resumed = invoke_json("train", "resume", job_id, *caller.flags)
    assert resumed["state"] in {"queued", "preparing", "running"}
    invoke("train", "cancel", job_id, *caller.flags)
    watched = invoke("train", "watch", job_id, *caller.flags)
    assert watched.exit_code == 1
    assert invoke_json("train", "delete", job_id, *caller.flags) == {"deleted": job_id}
    assert invoke_json("train", "list", *caller.flags)["jobs"] == []


def test_what_is_wrong_with_a_file_is_told_before_anything_is_sent(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SHORT + "stage: both\nadapter: {rank: 0}\n")
    result = invoke("train", "submit", path, "--server", GONE)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "adapter.rank: line 5" in result.stderr
    path.write_text(SHORT + "stage: both\nmethod: full\nadapter: {rank: 4}\n")
    result = invoke("train", "submit", path, "--server", GONE)
    assert "boundary: is missing" in result.stderr
    assert "adapter: " in result.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("submit", "/none.yaml"), 2, "/none.yaml"),
        (("show", "0" * 16), 1, "no job"),
        (("watch", "0" * 16), 1, "no job"),
        (("cancel", "../x"), 1, "no job"),
        (("list", "--state", "lost"), 2, "lost"),
    ],
)
def test_mistakes_end_with_one_line(
    invoke: Invoke, caller: Caller, command: tuple[str, ...], code: int, said: str
) -> None:
    result = invoke("train", *command, *caller.flags)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_named(invoke: Invoke) -> None:
    result = invoke("train", "list", "--server", GONE)
    assert (result.exit_code, GONE in result.stderr) == (1, True)


def test_another_tenants_job_is_not_there(
    invoke: Invoke, caller: Caller, callers: Iterator[Caller]
) -> None:
    job_id = caller.create(SLOW)
    other = next(callers)
    result = invoke("train", "show", job_id, *other.flags)
    assert (result.exit_code, "no job" in result.stderr) == (1, True)
    invoke("train", "cancel", job_id, *caller.flags)


def test_a_server_can_be_asked_what_a_job_would_take(
    invoke_json: Callable[..., dict[str, Any]], caller: Caller, job_file: Path
) -> None:
    answer = invoke_json("train", "submit", job_file, "--dry-run", *caller.flags)
    assert answer["estimate"]["num_trained_parameters"] == 3
    assert invoke_json("train", "list", *caller.flags)["jobs"] == []


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (("--images-per-s", 3), "--images-per-s"),
        (("--images-per-s", 3, "--dry-run", "--server", GONE), "--images-per-s"),
        (("--watch", "--dry-run"), "--watch"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    invoke: Invoke, job_file: Path, options: tuple[object, ...], flag: str
) -> None:
    result = invoke("train", "submit", job_file, *options)
    assert result.exit_code == 2
    assert flag in result.output


def test_without_a_server_that_of_the_settings_is_asked(
    invoke: Invoke, callers: Iterator[Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address, *token = next(callers).flags
    monkeypatch.setenv("DIPTYCH_TRAINING_PORT", address.rpartition(":")[2])
    monkeypatch.setenv("DIPTYCH_TRAINING_HOST", "0.0.0.0")
    assert invoke("train", "list", *token).exit_code == 0


def test_a_server_on_a_free_port_must_be_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPTYCH_TRAINING_PORT", "0")
    result = invoke("train", "list")
    assert (result.exit_code, "--server" in result.stderr) == (2, True)
