"""What a caller sends is a job that can be run, or everything that is wrong with it."""

from pathlib import Path

import pytest

from diptych.datasets.places import Places
from diptych.errors import JobInvalid
from diptych.training.checking import JobChecks
from diptych.training.spec_text import parse_job

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
        models_dir=tmp_path / "models",
        max_nodes=1,
    )


def refused(checks: JobChecks, text: str) -> set[str]:
    """Return the fields that are wrong."""
    with pytest.raises(JobInvalid) as error:
        checks(text)
    return {one.field for one in error.value.violations}


def test_job_is_kept_as_it_is_read_again(checks: JobChecks, tmp_path: Path) -> None:
    checked = checks(JOB)
    again = parse_job(checked.text.encode(), folder=Path("/elsewhere"))
    assert again == parse_job(JOB.encode(), folder=tmp_path)
    assert checked.name == "huggy"


def test_what_it_takes_is_told(checks: JobChecks) -> None:
    found = checks(JOB).estimate
    assert found.num_steps == 4
    assert found.num_trained_parameters
    assert found.peak_memory_bytes


def test_everything_wrong_between_sections_is_told_at_once(checks: JobChecks) -> None:
    text = JOB.replace("{num_steps: 4}", "{num_steps: 4, num_nodes: 2}").replace("huggy", "Huggy!")
    assert refused(checks, f"{text}stage: both\n") == {"run.num_nodes", "name", "boundary"}


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
    assert checks(hub).estimate.num_trained_parameters is None
    assert refused(checks, JOB.replace("nano/base-single", "/etc")) == {"model.source"}


def test_a_folder_that_is_not_there_is_told_before_the_job_waits(checks: JobChecks) -> None:
    text = JOB.replace("path: pictures", "path: gone")
    assert refused(checks, text) == {"dataset.datasets[0].source.path"}
