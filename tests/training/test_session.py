"""Whole jobs on the nano model over a real cache, in this process."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from diptych.adapters.card import Kind
from diptych.adapters.naming import Stage
from diptych.digest import Digest
from diptych.errors import (
    EncodersMismatch,
    JobInvalid,
    ModelNotFound,
    ResumeMismatch,
    StoreFull,
)
from diptych.models.trained_experts import find_expert
from diptych.storage.local import LocalBlobs
from diptych.training.checkpoints import Checkpoint, Checkpoints, Written
from diptych.training.experts import expert_plans
from diptych.training.mate import Mate
from diptych.training.publishing import open_registry
from diptych.training.session import allowed_places
from diptych.training.spec_text import parse_job
from diptych.training.task import Outcome, WorkerTask
from diptych.training.worker import held_lock
from support.full_disk import files_no_larger_than
from support.jobs import a_session, a_task, an_attempt, events_of, nano_cache, run_session

FOUR = {"num_steps": 4}
BOTH: dict[str, Any] = {"stage": "both", "boundary": 0.65, "model": {"source": "nano/base-single"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nano_cache(tmp_path_factory.mktemp("cache")) as address:
        yield address


def digest_of(result: object) -> Digest:
    assert isinstance(result, dict)
    (digest,) = set(result["digests"].values())
    return Digest(hex=digest.removeprefix("sha256:"))


def test_a_job_ends_in_an_adapter_that_has_no_name_yet(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache)
    folder = an_attempt(task)
    outcome = a_session(task, folder).run()
    assert outcome.ending == "succeeded"
    registry = open_registry(task)
    card = registry.card(digest_of(outcome.result))
    assert (card.family, card.stage, card.max_rank) == ("nano", Stage.BASE, 4)
    assert card.timestep_range == (0, 999)
    assert registry.pointers("default") == {}
    (prepared,) = events_of(folder, "prepared")
    assert (prepared["num_images"], prepared["num_encoded"]) == (6, 6 + 6 + 1)
    assert [told["step"] for told in events_of(folder, "checkpoint")] == [3, 6, 8]
    timesteps = outcome.result["timesteps"]
    assert isinstance(timesteps, dict)
    assert sum(timesteps["single"]["bins"]) == 8 * 2


def stopped_after(task: WorkerTask, step: int) -> WorkerTask:
    """Do a task until ``step`` of its second expert, and return the next attempt's."""
    folder = an_attempt(task)
    session = a_session(task, folder)

    def is_preempted() -> bool:
        progress = events_of(folder, "progress") if folder.events.exists() else []
        return any(one["expert"] == "refiner" and one["step"] == step for one in progress)

    session._is_preempted = is_preempted
    assert session.run().ending == "preempted"
    return replace(task, attempt=task.attempt + 1)


def test_both_experts_are_one_job_that_goes_on_in_its_second(cache: str, tmp_path: Path) -> None:
    whole = run_session(a_task(tmp_path, cache, run=FOUR, **BOTH))
    again = stopped_after(a_task(tmp_path, cache, job_id="cut", run=FOUR, **BOTH), 1)
    resumed = run_session(again)
    assert resumed.result == whole.result
    card = open_registry(again).card(digest_of(resumed.result))
    assert card.stage is Stage.BOTH
    timesteps = resumed.result["timesteps"]
    assert isinstance(timesteps, dict)
    assert timesteps["base"]["first"] >= 350
    assert timesteps["refiner"]["last"] <= 349


def test_a_mate_trains_its_expert_alone_and_exports_nothing(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache, run=FOUR | {"side_by_side": True}, **BOTH)
    task = replace(task, expert="refiner", num_embeddings=13, num_encoded=5)
    folder = an_attempt(task)
    assert a_session(task, folder).run() == Outcome(ending="succeeded")
    (prepared,) = events_of(folder, "prepared")
    assert (prepared["expert"], prepared["num_embeddings"], prepared["num_encoded"]) == (
        "refiner",
        13,
        5,
    )
    names = {one.key.split("/")[0] for one in LocalBlobs(folder.checkpoints).listing("")}
    assert names == {"1-refiner"}


def test_an_expert_stops_with_a_checkpoint_where_its_mate_has_failed(
    cache: str, tmp_path: Path
) -> None:
    failed = Outcome(ending="failed", reason="NON_FINITE_LOSS", message="no", is_users=True)
    say = "import sys; open(sys.argv[1] + '/outcome-refiner.json', 'w')"
    run = {"num_steps": 100_000, "side_by_side": True}
    task = a_task(tmp_path, cache, run=run, checkpoints={"every_steps": 10**6}, **BOTH)
    folder = an_attempt(task)
    with held_lock(folder.lock, lambda: False) as lock:
        assert lock is not None
        worker = ("-c", f"{say}.write({failed.to_json()!r})")
        mate = Mate(folder, lock=lock, beat=lambda: None, worker=worker)
        session = a_session(task, folder)
        session._mate = mate
        assert session.run() == failed
    (checkpoint,) = events_of(folder, "checkpoint")
    assert checkpoint["expert"] == "base"


def test_the_second_expert_reads_texts_as_the_first_learnt_to(cache: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "stage": "both",
        "boundary": 0.65,
        "text_encoders": {"method": "lora", "rank": 2},
        "run": FOUR,
    }
    whole = run_session(a_task(tmp_path, cache, **options))
    again = stopped_after(a_task(tmp_path, cache, job_id="cut", **options), 1)
    resumed = run_session(again)
    assert resumed.result == whole.result
    card = open_registry(again).card(digest_of(resumed.result))
    assert (card.stage, Kind.TEXT_ENCODER in card.kinds) == (Stage.BOTH, True)


def test_a_job_whose_disk_was_full_goes_on_from_the_checkpoint_before(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_session(a_task(tmp_path, cache, job_id="whole"))
    task = a_task(tmp_path, cache, job_id="full")
    write, asked = Checkpoints.write, []

    def full_at_the_second(checkpoints: Checkpoints, checkpoint: Checkpoint) -> Written:
        asked.append(checkpoint.step)
        if len(asked) != 2:
            return write(checkpoints, checkpoint)
        with files_no_larger_than(20_000):
            return write(checkpoints, checkpoint)

    monkeypatch.setattr(Checkpoints, "write", full_at_the_second)
    with pytest.raises(StoreFull):
        run_session(task)
    assert run_session(replace(task, attempt=2)) == whole
    assert asked == [3, 6, 6, 8]


def test_a_full_fine_tune_ends_in_an_expert(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache, method="full", run=FOUR)
    outcome = run_session(task)
    folder = find_expert(tmp_path / "experts", "ball")
    assert digest_of(outcome.result).hex == folder.name
    assert load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_job_begins_at_an_expert_that_its_tenant_trained(cache: str, tmp_path: Path) -> None:
    two: dict[str, Any] = {"run": {"num_steps": 2}}
    run_session(a_task(tmp_path, cache, method="full", **two))
    task = a_task(tmp_path, cache, job_id="next", model={"source": "experts/ball"}, **two)
    assert run_session(task).ending == "succeeded"
    others = replace(task, tenant="lab", attempt=2)
    session = a_session(others, an_attempt(others))
    (plan,) = expert_plans(session._spec)
    with pytest.raises(ModelNotFound, match="experts/ball"):
        session._load(plan)(device="cpu")


def test_a_cache_with_other_encoders_is_refused(tmp_path: Path, cache: str) -> None:
    task = a_task(tmp_path, cache)
    session = a_session(task, an_attempt(task))
    other = session._cache()
    found = {
        stage: replace(one, image=replace(one.image, fingerprint="another"))
        for stage, one in other.encoders().items()
    }
    other.encoders = lambda: found  # type: ignore[method-assign,assignment,misc]
    with pytest.raises(EncodersMismatch, match=cache):
        session._run(other)


def test_a_job_does_not_go_on_from_another_ones_checkpoints(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache, run=FOUR)
    run_session(task)
    other = replace(a_task(tmp_path, cache, run={"num_steps": 5}), attempt=2)
    with pytest.raises(ResumeMismatch):
        run_session(other)


def test_a_session_asked_to_stop_while_it_prepares_leaves_nothing(
    cache: str, tmp_path: Path
) -> None:
    task = a_task(tmp_path, cache)
    folder = an_attempt(task)
    folder.wish.write_text("cancel")
    assert a_session(task, folder).run().ending == "stopped"
    spec = Digest.of_bytes(task.spec.encode())
    blobs = LocalBlobs(folder.checkpoints)
    assert Checkpoints(blobs, spec=spec, keep=1, warn=lambda *_: None).latest() is None


def test_a_dataset_outside_the_owners_folder_is_refused(tmp_path: Path) -> None:
    task = replace(a_task(tmp_path, "here:1"), dataset_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(JobInvalid):
        parse_job(task.spec.encode(), folder=tmp_path, places=allowed_places(task))


def test_a_cache_that_reads_no_datasets_is_warned_of_and_asked_while_training(
    tmp_path: Path,
) -> None:
    with nano_cache(tmp_path / "cache", dataset_dir=None) as address:
        task = a_task(tmp_path, address, run=FOUR)
        folder = an_attempt(task)
        assert a_session(task, folder).run().ending == "succeeded"
    reasons = [told["reason"] for told in events_of(folder, "warning")]
    assert "CACHE_NOT_WARMED" in reasons
