"""What is known of a model before anything is loaded, and what is said of one that is not there."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from diptych.datasets.places import Places
from diptych.nano.pair import expert_path
from diptych.training.model_facts import JobFacts, read_facts
from diptych.training.spec import ModelSpec
from support.job_texts import job


def facts_of(
    tmp_path: Path, model: ModelSpec, places: Places | None = None
) -> tuple[JobFacts, list[str]]:
    spec = replace(job("stage: both", "boundary: 0.5"), model=model)
    facts, wrong = read_facts(spec, models_dir=tmp_path, places=places or Places())
    return facts, [f"{one.field}: {one.description}" for one in wrong]


def test_nano_is_known_whole(tmp_path: Path) -> None:
    facts, wrong = facts_of(tmp_path, ModelSpec())
    assert wrong == []
    assert [model.family.name for model in facts.values()] == ["nano", "nano"]
    assert facts["base"].schedule.prediction_type == "v_prediction"
    assert facts["base"].text_encoders == ("text_encoder", "text_encoder_2")


def test_parameters_are_those_of_the_module(tmp_path: Path) -> None:
    facts, _ = facts_of(tmp_path, ModelSpec())
    unet = UNet2DConditionModel.from_pretrained(expert_path("base") / "unet")
    assert facts["base"].num_parameters["unet"] == unet.num_parameters()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelSpec(source="/none"), "model.source: model '/none': no such file or folder"),
        (ModelSpec(source="./x.ckpt"), "model.source: model './x.ckpt': is a pickle"),
        (ModelSpec(source="nano/none"), "model.source: model 'nano/none'"),
        (ModelSpec(source="no name"), "model.source: model 'no name': no such file or folder"),
        (ModelSpec(refiner="/none"), "model.refiner: model '/none': no such file or folder"),
        (ModelSpec(family="none"), "model.family: unknown family 'none'"),
        (ModelSpec(source="a/b", family="none"), "model.family: unknown family 'none'"),
        (ModelSpec(revision="main"), "model.revision: is given, and no model is a hub's"),
        (ModelSpec(source="a/b@v1", revision="main"), "model.revision: is given, and no model"),
        (ModelSpec(source="experts/a", revision="main"), "model.revision: is given, and no model"),
    ],
)
def test_what_is_no_model_is_named_by_its_field(
    tmp_path: Path, model: ModelSpec, said: str
) -> None:
    _, wrong = facts_of(tmp_path, model)
    assert [one.startswith(said) for one in wrong] == [True], wrong


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, wrong = facts_of(tmp_path, ModelSpec(source=str(tmp_path / "empty")))
    assert len(wrong) == 1
    assert "model_index.json" in wrong[0]


@pytest.mark.parametrize(
    "source", ["/etc", "owner/name", "s3://bucket/model", str(expert_path("base"))]
)
def test_a_server_reads_what_its_places_allow_alone(tmp_path: Path, source: str) -> None:
    places = Places(roots=(tmp_path,), buckets=(), hub=False)
    facts, wrong = facts_of(tmp_path, ModelSpec(source=source), places)
    assert (facts, len(wrong)) == ({}, 1)
    assert wrong[0].startswith("model.source:")


@pytest.mark.parametrize("source", ["owner/name", "s3://bucket/model", "experts/mine/base"])
def test_what_was_not_fetched_yet_is_not_known_and_not_refused(tmp_path: Path, source: str) -> None:
    assert facts_of(tmp_path, ModelSpec(source=source)) == ({}, [])


def test_checking_a_job_needs_no_torch() -> None:
    code = (
        "import sys, diptych.training.rules, diptych.training.estimate, "
        "diptych.training.spec_text; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
