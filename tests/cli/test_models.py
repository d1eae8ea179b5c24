"""``diptych models`` knows what there is and where it lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from diptych.cli.models import KNOWN_MODELS
from diptych.digest import Digest
from diptych.models.trained_experts import expert_folder, point_at
from diptych.nano.pair import expert_path, pair_path

Invoke = Callable[..., Result]
InvokeJson = Callable[..., dict[str, Any]]


def test_list_names_every_known_model(invoke: Invoke) -> None:
    text = invoke("models", "list").stdout
    assert [source for source, _, _ in KNOWN_MODELS if source not in text] == []


def test_list_says_which_are_here(invoke_json: InvokeJson) -> None:
    models = {one["source"]: one["path"] for one in invoke_json("models", "list")["models"]}
    assert models["nano"] == str(pair_path())
    assert models["stabilityai/sdxl-turbo"] is None


def test_path_of_nano_holds_the_pair(invoke: Invoke) -> None:
    folder = Path(invoke("models", "path", "nano").stdout.strip())
    assert {"base", "refiner"} <= {entry.name for entry in folder.iterdir()}


def test_path_of_one_expert_is_its_folder(invoke: Invoke) -> None:
    assert Path(invoke("models", "path", "nano/refiner").stdout.strip()) == expert_path("refiner")


def test_path_of_a_folder_is_that_folder(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("models", "path", tmp_path).stdout.strip() == str(tmp_path.resolve())


def test_path_of_an_expert_that_was_trained_here_is_what_its_name_means(
    invoke: Invoke, isolated_home: Path
) -> None:
    digest = Digest.of_bytes(b"weights")
    folder = expert_folder(isolated_home / "experts", "huggy", digest)
    folder.mkdir(parents=True)
    point_at(isolated_home / "experts", "huggy", digest)
    assert invoke("models", "path", "experts/huggy").stdout.strip() == str(folder)


def test_path_of_a_fetched_model_is_its_snapshot(invoke: Invoke, isolated_home: Path) -> None:
    repository = isolated_home / "models" / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    path = invoke("models", "path", "some/model").stdout.strip()
    assert path == str(repository / "snapshots" / "abc123")


def test_path_of_what_is_not_here_says_how_to_get_it(invoke: Invoke) -> None:
    result = invoke("models", "path", "some/model")
    assert (result.exit_code, "diptych models pull" in result.stderr) == (1, True)


def test_pull_of_nano_fetches_nothing(invoke_json: InvokeJson) -> None:
    assert invoke_json("models", "pull", "nano")["path"] == str(pair_path())


def test_pull_checks_a_folder_without_loading_it(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("models", "pull", tmp_path)
    assert (result.exit_code, "Traceback" in result.output) == (2, False)
    assert "checkpoint" in result.stderr


def test_pull_of_a_pickle_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"\x80\x04.")
    result = invoke("models", "pull", pickle)
    assert (result.exit_code, "is a pickle" in result.stderr) == (2, True)


def test_path_below_the_home_of_nobody_is_not_there(invoke: Invoke) -> None:
    result = invoke("models", "path", "~nosuchuser/model")
    assert (result.exit_code, "~nosuchuser/model" in result.stderr) == (1, True), result.output
