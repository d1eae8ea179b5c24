"""Jobs that cannot be run are told everything that is wrong, and those that can what to know."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.datasets.findings import Findings
from diptych.datasets.places import Places
from diptych.diffusion.schedule import EdmSchedule
from diptych.errors import JobInvalid
from diptych.training.model_facts import JobFacts, read_facts
from diptych.training.rules import check, check_images, check_with_models, left_out, remarks
from diptych.training.spec import JobSpec
from support.job_texts import job
from support.planned import plan_of

EVAL = "dataset: {datasets: [{id: a, kind: eval, source: {type: folder, path: x}}]}"
DISABLED = "dataset: {datasets: [{id: a, disabled: true, source: {type: folder, path: x}}]}"
KEPT = (
    "dataset: {datasets: [{id: a, source: {type: folder, path: x}}, "
    "{id: b, kind: regularisation, source: {type: folder, path: x}}]}"
)


def wrong_fields(spec: JobSpec, facts: JobFacts | None = None) -> list[str]:
    with pytest.raises(JobInvalid) as caught:
        check(spec, facts)
    return [one.field for one in caught.value.violations]


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (("boundary: 0.5",), ["boundary"]),
        (("stage: both",), ["boundary"]),
        (("stage: base",), ["boundary"]),
        (("stage: both", "boundary: 0.99999"), ["boundary"]),
        (("stage: both", "boundary: 0.00001"), ["boundary"]),
        (("model: {refiner: nano}",), ["model.refiner"]),
        (("method: full", "adapter: {rank: 8}"), ["adapter"]),
        (("adapter: {start_from: 'A B'}",), ["adapter.start_from"]),
        (("adapter: {start_from: huggy, rank: 8}",), ["adapter.rank"]),
        (("adapter: {rank_pattern: {'(': 8}}",), ["adapter.rank_pattern"]),
        (("text_encoders: {rank: 4}",), ["text_encoders.rank"]),
        (("method: full", "text_encoders: {method: full, rank: 4}"), ["text_encoders.rank"]),
        (("text_encoders: {method: full}",), ["text_encoders.method"]),
        (("objective: {zero_snr: true, prediction_type: epsilon}",), ["objective.zero_snr"]),
        (("objective: {huber_c: 0.5}",), ["objective.huber_c"]),
        (("objective: {regularisation_weight: 2}",), ["objective.regularisation_weight"]),
        (
            (
                "stage: base",
                "boundary: 0.65",
                "objective: {timestep_bias: {kind: range, begin: 0, end: 300, multiplier: 2}}",
            ),
            ["objective.timestep_bias.begin"],
        ),
        (("optimizer: {name: adafactor, betas: [0.9, 0.99]}",), ["optimizer.betas"]),
        (("lr_schedule: {num_warmup_steps: 2}",), ["lr_schedule.num_warmup_steps"]),
        (
            ("lr_schedule: {name: cosine, num_warmup_steps: 4}",),
            ["lr_schedule.num_warmup_steps"],
        ),
    ],
)
def test_sections_that_contradict_are_refused(lines: Sequence[str], fields: list[str]) -> None:
    assert wrong_fields(job(*lines)) == fields


@pytest.mark.parametrize(
    ("run", "lines", "fields"),
    [
        (
            "num_steps: 4, side_by_side: true",
            ("stage: base", "boundary: 0.5"),
            ["run.side_by_side"],
        ),
        (
            "num_steps: 4, side_by_side: true, num_devices: 2, num_nodes: 2",
            ("stage: both", "boundary: 0.5"),
            ["run.num_devices", "run.num_nodes"],
        ),
        (
            "num_steps: 4, side_by_side: true, sharding: fsdp2",
            ("stage: both", "boundary: 0.5"),
            ["run.sharding"],
        ),
        ("num_steps: 4, sharding: fsdp2", (), ["run.sharding"]),
    ],
)
def test_devices_that_a_job_cannot_use_are_refused(
    run: str, lines: Sequence[str], fields: list[str]
) -> None:
    assert wrong_fields(job(*lines, run=run)) == fields


def test_a_refiner_that_waits_for_the_base_s_encoders_is_not_trained_beside_it() -> None:
    run = "num_steps: 4, side_by_side: true"
    spec = job("stage: both", "boundary: 0.5", "text_encoders: {method: lora}", run=run)
    assert wrong_fields(spec) == ["run.side_by_side"]


def test_two_experts_may_be_trained_side_by_side() -> None:
    check(job("stage: both", "boundary: 0.5", run="num_steps: 4, side_by_side: true"))


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_backtracks_without_end_is_refused(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(rf"adapter: {{{field}: {{'(?:.|\w){{30,}}\d{{3}}': 3, to_q: 4}}}}")
    monkeypatch.setattr("diptych.training.rules.PATTERN_S", 0.2)
    assert wrong_fields(spec, facts_of(spec, tmp_path)) == [f"adapter.{field}"]


@pytest.mark.parametrize("dataset", [EVAL, DISABLED])
def test_a_job_without_images_to_train_on_is_refused(dataset: str) -> None:
    assert wrong_fields(job(dataset=dataset)) == ["dataset.datasets"]


def test_a_full_fine_tune_cannot_be_held_to_the_model_before_it() -> None:
    assert wrong_fields(job("method: full", dataset=KEPT)) == ["dataset.datasets[1].kind"]


def test_a_name_that_no_adapter_may_have_is_refused() -> None:
    assert wrong_fields(replace(job(), name="A B")) == ["name"]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    spec = job("stage: both", "method: full", "adapter: {rank: 1}", "model: {source: /none}")
    with pytest.raises(JobInvalid) as caught:
        check_with_models(spec, models_dir=tmp_path)
    found = {one.field for one in caught.value.violations}
    assert found == {"boundary", "adapter", "model.source"}


def facts_of(spec: JobSpec, tmp_path: Path) -> JobFacts:
    facts, wrong = read_facts(spec, models_dir=tmp_path)
    assert not wrong
    return facts


def test_a_sound_job_gives_its_models_facts(tmp_path: Path) -> None:
    spec = job("stage: both", "boundary: 0.65")
    assert set(check_with_models(spec, models_dir=tmp_path)) == {"base", "refiner"}


def test_a_model_may_lie_only_where_places_allow(tmp_path: Path) -> None:
    spec = job(f"model: {{source: {tmp_path}}}")
    with pytest.raises(JobInvalid, match="outside the folders"):
        check_with_models(spec, models_dir=tmp_path, places=Places(roots=()))


def test_epsilon_at_zero_snr_is_refused_where_the_checkpoint_has_it(tmp_path: Path) -> None:
    spec = job("objective: {prediction_type: epsilon}")
    single = facts_of(spec, tmp_path)["single"]
    ends = replace(single.schedule, rescale_betas_zero_snr=True)
    facts: JobFacts = {"single": replace(single, schedule=ends)}
    assert wrong_fields(spec, facts) == ["objective.prediction_type"]


def test_a_continuous_schedule_is_refused(tmp_path: Path) -> None:
    single = facts_of(job(), tmp_path)["single"]
    edm: JobFacts = {
        "single": replace(single, schedule=replace(single.schedule, edm=EdmSchedule()))
    }
    assert wrong_fields(job(), edm) == ["objective.prediction_type"]


def test_experts_of_unlike_schedules_are_refused(tmp_path: Path) -> None:
    spec = job("stage: both", "boundary: 0.5", "model: {refiner: nano}")
    facts = dict(facts_of(spec, tmp_path))
    other = replace(facts["refiner"].schedule, beta_end=0.02)
    facts["refiner"] = replace(facts["refiner"], schedule=other)
    assert wrong_fields(spec, facts) == ["model.refiner"]


def test_a_dataset_without_a_usable_image_is_refused() -> None:
    plans = {"a": plan_of([], id="a")}
    with pytest.raises(JobInvalid, match="has no image that can be used"):
        check_images(job(), plans)


def test_why_no_image_can_be_used_is_told_with_the_dataset() -> None:
    findings = Findings()
    findings.of_dataset("a")("image_invalid", "x.png", "cut short")
    with pytest.raises(JobInvalid) as error:
        check_images(job(), {"a": plan_of([], id="a")}, findings)
    (told,) = error.value.violations
    assert (told.field, told.description) == (
        "dataset.datasets[0]",
        "a has no image that can be used: dataset a: 1 left out, image_invalid: x.png",
    )


def test_one_image_is_enough_and_told() -> None:
    plans = {"a": plan_of([(64, 64)], id="a")}
    check_images(job(), plans)
    assert "ONE_IMAGE" in [one.reason for one in remarks(job(), plans=plans)]


def test_a_batch_larger_than_its_bucket_is_filled_and_told() -> None:
    plans = {"a": plan_of([(64, 64), (64, 64)], id="a", batch_size=4)}
    check_images(job(), plans)
    (found,) = [one for one in remarks(job(), plans=plans) if one.reason != "NO_CHECKPOINT"]
    assert found.reason == "BATCH_EXCEEDS_BUCKET"
    assert "shows 2 images an epoch and a batch has 4" in found.message


OFTEN = "checkpoints: {every_steps: 2}"


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        ((OFTEN, "optimizer: {name: prodigy, learning_rate: 1e-4}"), ["PRODIGY_RATE_LOW"]),
        ((OFTEN, "optimizer: {name: prodigy}"), []),
        (("checkpoints: {every_steps: 5}",), ["NO_CHECKPOINT"]),
        ((OFTEN,), []),
    ],
)
def test_what_is_probably_not_meant_is_told(lines: Sequence[str], reasons: list[str]) -> None:
    assert [one.reason for one in remarks(job(*lines))] == reasons


def test_a_model_with_one_text_encoder_is_told_where_encoders_are_trained(tmp_path: Path) -> None:
    spec = job(OFTEN, "text_encoders: {method: lora}")
    single = facts_of(spec, tmp_path)["single"]
    shapes = {name: one for name, one in single.shapes.items() if name != "text_encoder"}
    facts: JobFacts = {"single": replace(single, shapes=shapes)}
    assert [one.reason for one in remarks(spec, facts)] == ["ONE_TEXT_ENCODER"]


def test_images_that_training_does_not_see_are_told_with_their_reason() -> None:
    findings = Findings()
    note = findings.of_dataset("huggy")
    for number in range(10):
        note("caption_missing", f"{number}.png")
    note("unreadable", "cut.png")
    note("name_not_picture", "notes.md")
    note("duplicate", "twice.png")
    first, second = left_out(findings)
    assert first.message.startswith("dataset huggy: 10 left out, caption_missing: 0.png, 1.png")
    assert first.message.endswith("7.png, ...")
    assert second.message == "dataset huggy: 1 left out, unreadable: cut.png"
    assert {first.reason, second.reason} == {"IMAGES_LEFT_OUT"}
