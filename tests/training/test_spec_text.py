"""Job files as users write them, right and wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.places import Places
from diptych.datasets.source_spec import FolderSource
from diptych.errors import JobInvalid
from diptych.training.experts import expert_plans
from diptych.training.spec_text import inlined, parse_job, read_job, to_json
from support.job_texts import DATASET, HERE, SHORT, job

WRONG = """\
name: style
stage: baze
run: {num_step: 4, batch_size: 0}
optimizer: {learning_rate: .nan, prodigy: {growth_rate: .inf}}
refiner: 3
adapter: {rank: 0}
boundary: 1
dataset:
  datasets:
  - id: a
    source: {type: folder, pth: x}
"""


def refused(text: str, places: Places | None = None, folder: Path = HERE) -> list[str]:
    with pytest.raises(JobInvalid) as caught:
        parse_job(text.encode(), folder=folder, places=places or Places())
    return [f"{found.field}: {found.description}" for found in caught.value.violations]


def test_everything_wrong_is_named_at_once_with_its_line() -> None:
    found = refused(WRONG)
    expected = [
        "optimizer.learning_rate: line 4: .nan is not a finite number",
        "optimizer.prodigy.growth_rate: line 4: .inf is not a finite number",
        "dataset.datasets[0].source.path: line 11: is missing",
        "dataset.datasets[0].source.pth: line 11: no such key here; path is",
        "stage: line 2: must be 'base', 'refiner', 'both' or 'single', got 'baze'",
        "boundary: line 7: must be less than 1, got 1",
        "adapter.rank: line 6: must be at least 1, got 0",
        "run.num_step: line 3: no such key here; num_steps is",
        "run.batch_size: line 3: must be at least 1, got 0",
        "refiner: line 5: no such key here",
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", "{}", "name: a", "dataset: 3"])
def test_what_is_no_job_is_refused(text: str) -> None:
    assert refused(text)


@given(st.binary(max_size=40), st.integers(0, len(WRONG)), st.integers(0, 20))
def test_whatever_a_file_holds_it_is_a_job_or_refused(
    noise: bytes, place: int, num_cut: int
) -> None:
    data = WRONG.encode()[:place] + noise + WRONG.encode()[place + num_cut :]
    for text in (data, noise):
        with pytest.raises(JobInvalid):
            parse_job(text, folder=HERE)


def test_the_length_is_said_once() -> None:
    problem = "exactly one of num_steps and num_epochs says how long to train"
    assert refused(f"name: a\nrun: {{}}\n{DATASET}") == [f"run: line 2: {problem}"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="No such file"):
        read_job(tmp_path / "none.yaml")


def test_paths_begin_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(SHORT)
    source = read_job(tmp_path / "job.yaml").dataset.datasets[0].source
    assert source == FolderSource(path=str(tmp_path / "x"))


def test_a_manifest_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "one.yaml").write_text(DATASET.removeprefix("dataset: "))
    found = parse_job(b"name: a\nrun: {num_steps: 1}\ndataset: sets/one.yaml", folder=tmp_path)
    assert found.dataset.datasets[0].source == FolderSource(path=str(tmp_path / "sets" / "x"))


def test_what_is_wrong_in_a_manifests_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("datasets:\n- {id: a b, source: {type: folder, path: x}}")
    (found,) = refused("name: a\nrun: {num_steps: 1}\ndataset: one.yaml", folder=tmp_path)
    assert found.startswith("dataset.datasets[0].id: line 2:")
    assert found.endswith("in one.yaml")


def test_a_manifests_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (found,) = refused("name: a\nrun: {num_steps: 1}\ndataset: one.yaml", folder=tmp_path)
    assert found.startswith("dataset: cannot read")


def test_a_manifest_below_the_home_of_nobody_is_not_there() -> None:
    (found,) = refused("name: a\nrun: {num_steps: 1}\ndataset: ~no-such-user/one.yaml")
    assert found.startswith("dataset: cannot read")


def test_images_below_the_home_of_nobody_are_below_a_folder_of_that_name() -> None:
    source = job("method: lora", dataset=DATASET.replace("path: x", "path: ~no-such-user/x"))
    assert source.dataset.datasets[0].source == FolderSource(path=str(HERE / "~no-such-user/x"))


@pytest.mark.parametrize("dataset", [DATASET, "dataset: /etc/passwd"])
def test_a_server_reads_what_its_places_allow_alone(dataset: str, tmp_path: Path) -> None:
    text = f"name: a\nrun: {{num_steps: 1}}\n{dataset}"
    (found,) = refused(text, Places(roots=(tmp_path,)))
    assert "outside the folders read here" in found


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("stage: both", "boundary: 0.1234567890123", "method: dora"),
        ("optimizer: {name: prodigy, prodigy: {beta3: 0.5}, betas: [0.9, 0.99]}",),
        ("adapter: {rank_pattern: {to_q: 4}, alpha: 2}", "trigger_words: [wörd]"),
    ],
)
def test_what_is_written_is_read_back_equal(lines: tuple[str, ...]) -> None:
    spec = job(*lines)
    text = to_json(spec)
    assert parse_job(text.encode(), folder=Path("/elsewhere")) == spec
    assert to_json(parse_job(text.encode(), folder=Path("/elsewhere"))) == text


def test_what_is_written_says_defaults_too() -> None:
    assert json.loads(to_json(job()))["optimizer"]["name"] == "adamw"


def test_equal_jobs_have_equal_texts() -> None:
    assert to_json(job("stage: single")) == to_json(job())


INVERTED = (
    "refiner_training: true, refiner_training_strength: 0.35, "
    "refiner_training_invert_schedule: true"
)


@pytest.mark.parametrize(
    ("words", "stage", "first", "last"),
    [
        ("refiner_training_strength: 0.35", "refiner", 0, 349),
        ("refiner_training: true", "refiner", 0, 199),
        (
            INVERTED,
            "base",
            350,
            999,
        ),
    ],
)
def test_simpletuners_words_become_stage_and_boundary(
    words: str, stage: str, first: int, last: int
) -> None:
    said = words.split(", ")
    spec = job(*said)
    (plan,) = expert_plans(spec)
    assert (spec.stage, plan.first_timestep, plan.last_timestep) == (stage, first, last)


def test_a_strength_says_where_two_experts_meet() -> None:
    base, refiner = expert_plans(job("stage: both", "refiner_training_strength: 0.35"))
    assert (base.timesteps, refiner.timesteps) == (range(350, 1000), range(350))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("refiner_training_strength: 0.35", "stage: base"),
            "stage: line 6: is 'base', and refiner_training_strength 0.35 means refiner",
        ),
        (
            ("refiner_training_strength: 0.35", "boundary: 0.35"),
            "boundary: line 6: is 0.35, and refiner_training_strength means 0.65",
        ),
        (
            ("refiner_training: false", "refiner_training_strength: 0.35"),
            "refiner_training_strength: line 6: refiner_training is false",
        ),
        (
            ("refiner_training_strength: 1",),
            "refiner_training_strength: line 5: is a number between 0 and 1, got 1",
        ),
        (
            ("refiner_training_strength: yes",),
            "refiner_training_strength: line 5: is a number between 0 and 1, got 'yes'",
        ),
        (("refiner_training: 1",), "refiner_training: line 5: is true or false, got 1"),
    ],
)
def test_simpletuners_words_that_contradict_are_refused(lines: tuple[str, ...], said: str) -> None:
    text = "\n".join(["name: style", "run: {num_steps: 4}", DATASET, *lines])
    assert refused(text) == [said]


def test_a_boundary_that_is_no_float_is_refused_beside_a_strength() -> None:
    (found,) = refused(f"{SHORT}refiner_training_strength: 0.5\nboundary: 1{'0' * 400}\n")
    assert "boundary" in found
    assert "must be less than 1" in found


def test_training_no_refiner_is_training_one_network() -> None:
    assert job("refiner_training: false") == job()


def test_a_job_for_another_machine_keeps_its_paths(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(DATASET.removeprefix("dataset: "))
    data = b"name: a\nrun: {num_steps: 1}\ndataset: one.yaml"
    text = inlined(data, folder=tmp_path)
    source = parse_job(text.encode(), folder=Path("/server")).dataset.datasets[0].source
    assert source == FolderSource(path="/server/x")
