"""What a caller sends is a job that can be run, or everything that is wrong with it."""

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.datasets.places import Places
from diptych.digest import Digest
from diptych.errors import JobInvalid
from diptych.models.trained_experts import expert_folder, point_at
from diptych.nano.pair import pair_path
from diptych.training import checking
from diptych.training.checking import JobChecks
from diptych.training.names import open_adapters
from diptych.training.spec_text import parse_job
from support.shelves import card_of

JOB = """
name: huggy
model: {source: nano/base-single}
dataset: {datasets: [{id: a, source: {type: folder, path: pictures}}]}
run: {num_steps: 4}
"""


@pytest.fixture
def checks(tmp_path: Path) -> JobChecks:
    (tmp_path / "pictures").mkdir()
    return JobChecks(
        folder=tmp_path,
        places=Places(roots=(tmp_path,), buckets=(), endpoints=(), hub=False, urls=False),
        model_places=Places(roots=(tmp_path,), hub=True),
        home=tmp_path,
        adapters=open_adapters(tmp_path, url=None, s3_endpoint=None),
        max_nodes=1,
        max_devices=2,
    )


def refused(checks: JobChecks, text: str) -> set[str]:
    """Return the fields that are wrong."""
    with pytest.raises(JobInvalid) as error:
        checks(text, tenant="lab")
    return {one.field for one in error.value.violations}


def test_job_is_kept_as_it_is_read_again(checks: JobChecks, tmp_path: Path) -> None:
    checked = checks(JOB, tenant="lab")
    again = parse_job(checked.text.encode(), folder=Path("/elsewhere"))
    assert again == parse_job(JOB.encode(), folder=tmp_path)
    assert checked.name == "huggy"


def test_a_job_that_no_worker_would_read_is_refused(
    checks: JobChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short text may stand for a long one, since defaults are written out."""
    monkeypatch.setattr(checking, "MAX_TEXT_BYTES", 2 * len(JOB))
    assert refused(checks, JOB) == {"job"}


def test_what_it_takes_is_told(checks: JobChecks) -> None:
    found = checks(JOB, tenant="lab").estimate
    assert found.num_steps == 4
    assert found.num_trained_parameters
    assert found.peak_memory_bytes


def test_everything_wrong_between_sections_is_told_at_once(checks: JobChecks) -> None:
    text = JOB.replace("{num_steps: 4}", "{num_steps: 4, num_nodes: 2}").replace("huggy", "Huggy!")
    assert refused(checks, f"{text}stage: both\n") == {"run.num_nodes", "name", "boundary"}


def test_more_devices_than_a_node_has_are_refused(checks: JobChecks) -> None:
    text = JOB.replace("num_steps: 4", "num_steps: 4, num_devices: 3")
    assert refused(checks, text) == {"run.num_devices"}
    assert replace(checks, max_devices=None)(text, tenant="lab").name == "huggy"


def test_everything_that_is_no_job_is_told_at_once(checks: JobChecks) -> None:
    text = JOB.replace("num_steps: 4", "num_steps: 4, batch_size: 0") + "adapter: {rank: 0}\n"
    assert refused(checks, text) == {"run.batch_size", "adapter.rank"}


@pytest.mark.parametrize(
    "source",
    [
        "{type: folder, path: /etc}",
        "{type: folder, path: ../up}",
        "{type: s3, bucket: other}",
        "{type: huggingface, name: owner/data}",
    ],
)
def test_data_outside_the_allowed_places_is_refused(checks: JobChecks, source: str) -> None:
    text = JOB.replace("{type: folder, path: pictures}", source)
    assert all(field.startswith("dataset") for field in refused(checks, text))


def test_text_that_is_none_is_refused(checks: JobChecks) -> None:
    assert refused(checks, "- a\n- b\n") == {"job"}


def test_models_lie_where_models_may_whatever_datasets_do(checks: JobChecks) -> None:
    hub = JOB.replace("nano/base-single", "owner/name")
    assert checks(hub, tenant="lab").estimate.num_trained_parameters is None
    assert refused(checks, JOB.replace("nano/base-single", "/etc")) == {"model.source"}


def test_a_folder_that_is_not_there_is_told_before_the_job_waits(checks: JobChecks) -> None:
    text = JOB.replace("path: pictures", "path: gone")
    assert refused(checks, text) == {"dataset.datasets[0].source.path"}


@pytest.mark.parametrize("reference", ["starry", "starry:old", str(Digest.of_bytes(b"none"))])
def test_an_adapter_to_go_on_from_that_is_not_there_is_told(
    checks: JobChecks, reference: str
) -> None:
    text = f"{JOB}adapter: {{start_from: '{reference}'}}\n"
    with pytest.raises(JobInvalid, match="no such adapter") as error:
        checks(text, tenant="lab")
    (told,) = error.value.violations
    assert told.field == "adapter.start_from"
    assert reference in told.description


def test_an_adapter_to_go_on_from_is_the_tenants_own(checks: JobChecks) -> None:
    checks.adapters.publish("starry", b"lab's", card_of(b"lab's"), tenant="lab")
    text = f"{JOB}adapter: {{start_from: starry}}\n"
    assert checks(text, tenant="lab").name == "huggy"
    with pytest.raises(JobInvalid):
        checks(text, tenant="other")


def test_an_expert_that_is_not_there_is_told(checks: JobChecks) -> None:
    assert refused(checks, JOB.replace("nano/base-single", "experts/gone")) == {"model.source"}


def test_an_expert_that_was_trained_here_is_read_as_any_model(checks: JobChecks) -> None:
    digest = Digest.of_bytes(b"an expert")
    folder = expert_folder(checks.home / "experts", "mine", digest, tenant="lab")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(pair_path() / "base")
    point_at(checks.home / "experts", "mine", digest, tenant="lab")
    text = JOB.replace("nano/base-single", "experts/mine")
    assert checks(text, tenant="lab").estimate.num_trained_parameters
    with pytest.raises(JobInvalid):
        checks(text, tenant="other")
