"""Batches of tensors: they follow from their number, and hold what inference would tell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.embeddings.encoders import LatentSpace
from diptych.errors import EmbeddingMissing
from diptych.models.family import FAMILIES
from diptych.training.feeding import FedBatch, FedStep, draw_latents
from support.fed import FEED, a_feeder, some_plans
from support.memory_embeddings import ENCODERS, MemoryCache

DROPPED = "captions: {dropout: 1.0}"


def bits(steps: Sequence[FedStep]) -> list[tuple[object, ...]]:
    """Return all that steps hold, to compare."""
    return [
        (
            step.number,
            step.epoch,
            step.after,
            batch.number,
            batch.images,
            batch.is_regularisation,
            batch.latents.numpy().tobytes(),
            batch.conditions.time_ids.numpy().tobytes(),
            batch.conditions.prompt_embeds.numpy().tobytes()
            if batch.conditions.prompt_embeds is not None
            else batch.conditions.texts,
        )
        for step in steps
        for batch in step.batches
    ]


def first_batch(folder: Path, more: str = "", **changed: object) -> FedBatch:
    plans = some_plans(folder, more)
    return next(a_feeder(plans, replace(FEED, **changed)).steps()).batches[0]  # type: ignore[arg-type]


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    plans = some_plans(tmp_path, "captions: {dropout: 0.5}\ncrop: {style: random}")
    runs = [
        bits(list(a_feeder(plans, replace(FEED, num_accumulated=2, num_workers=num)).steps()))
        for num in (0, 1, 3)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_a_run_goes_on_from_a_position_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    plans = some_plans(tmp_path)
    whole = list(a_feeder(plans).steps())
    rest = list(a_feeder(plans).steps(whole[2].after))
    assert bits(rest) == bits(whole[3:])


def test_two_ranks_have_the_batches_of_one_that_accumulates_twice(tmp_path: Path) -> None:
    plans = some_plans(tmp_path)
    one = a_feeder(plans, replace(FEED, num_accumulated=2)).steps()
    two = [a_feeder(plans, replace(FEED, rank=rank, num_ranks=2)).steps() for rank in range(2)]
    for alone, first, second in zip(one, *two, strict=True):
        together = [*first.batches, *second.batches]
        assert [batch.number for batch in alone.batches] == [batch.number for batch in together]
        for own, other in zip(alone.batches, together, strict=True):
            assert own.latents.equal(other.latents)


def test_every_epoch_draws_its_latents_afresh(tmp_path: Path) -> None:
    plans = some_plans(tmp_path, num_images=1, batch_size=1)
    first, second = a_feeder(plans).steps()
    assert first.batches[0].images == second.batches[0].images
    assert not first.batches[0].latents.equal(second.batches[0].latents)


@given(scale=st.sampled_from([0.13025, 1.0]), centred=st.booleans())
@settings(max_examples=8, deadline=None)
def test_latents_are_a_scaled_draw_of_the_posterior(*, scale: float, centred: bool) -> None:
    space = LatentSpace(
        channels=4,
        pixels_per_latent=8,
        scaling_factor=scale,
        latents_mean=(1.0, 2.0, 3.0, 4.0) if centred else (),
        latents_std=(2.0, 2.0, 2.0, 4.0) if centred else (),
    )
    mean, std = torch.randn(4, 3, 5), torch.rand(4, 3, 5)
    found = draw_latents([{"mean": mean, "std": std}], space, torch.Generator().manual_seed(7))
    noise = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(7))
    shift = torch.tensor(space.latents_mean or (0.0,) * 4).view(4, 1, 1)
    width = torch.tensor(space.latents_std or (1.0,) * 4).view(4, 1, 1)
    assert torch.allclose(found, ((mean + std * noise) - shift) * scale / width)


def test_time_ids_are_those_that_inference_computes_in_float32(tmp_path: Path) -> None:
    ids = first_batch(tmp_path).conditions.time_ids
    assert ids.dtype == torch.float32
    # Pictures of 96x64 in a bucket of 128x64, cut above and below; heights come first.
    assert ids.tolist() == [[64.0, 96.0, 10.0, 0.0, 64.0, 128.0]] * 2


@pytest.mark.parametrize(("more", "score"), [("", 6.0), (DROPPED, 2.5)])
def test_a_refiner_is_told_inferences_aesthetic_scores(
    tmp_path: Path, more: str, score: float
) -> None:
    batch = first_batch(tmp_path, more, family=FAMILIES["sdxl-refiner"])
    assert batch.conditions.time_ids.shape == (2, 5)
    assert batch.conditions.time_ids[:, -1].tolist() == [score, score]


def test_a_dropped_caption_is_zeros_where_inference_takes_zeros(tmp_path: Path) -> None:
    found = first_batch(tmp_path, DROPPED).conditions
    assert found.prompt_embeds is not None
    assert found.pooled is not None
    assert found.prompt_embeds.equal(torch.zeros(2, 7, 6))
    assert found.pooled.equal(torch.zeros(2, 5))
    assert found.time_ids[0, :2].tolist() == [64.0, 96.0]


def test_a_dropped_caption_is_the_empty_text_elsewhere(tmp_path: Path) -> None:
    cache = MemoryCache()
    plans = some_plans(tmp_path, DROPPED)
    feeder = a_feeder(plans, replace(FEED, zeros_when_dropped=False), cache=cache)
    found = next(feeder.steps()).batches[0].conditions
    assert found.prompt_embeds is not None
    assert ENCODERS.prompt_record("").key() in cache.kept
    assert found.prompt_embeds.count_nonzero() > 0


def test_an_own_empty_caption_is_not_a_dropped_one(tmp_path: Path) -> None:
    found = first_batch(tmp_path, "captions: {strategy: none}").conditions
    assert found.prompt_embeds is not None
    assert found.prompt_embeds.count_nonzero() > 0


def test_trained_text_encoders_are_given_texts(tmp_path: Path) -> None:
    found = first_batch(tmp_path, trains_text=True).conditions
    assert found.prompt_embeds is None
    assert found.texts is not None
    assert all(text is not None and text.startswith("picture") for text in found.texts)
    assert first_batch(tmp_path, DROPPED, trains_text=True).conditions.texts == (None, None)


def test_regularisation_batches_are_flagged(tmp_path: Path) -> None:
    assert first_batch(tmp_path, "kind: regularisation").is_regularisation
    assert not first_batch(tmp_path).is_regularisation


def test_a_sample_without_a_mask_counts_whole(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.new("L", (96, 64), 51).save(tmp_path / "masks" / "p0.png")
    masks = "masks: {source: {type: folder, path: masks}}"
    plans = some_plans(tmp_path, masks, num_images=2, batch_size=2)
    mask = next(a_feeder(plans).steps()).batches[0].mask
    assert mask is not None
    assert mask.shape == (2, 1, 8, 16)
    means = sorted(mask.mean(dim=(1, 2, 3)).tolist())
    assert means == pytest.approx([0.2, 1.0])


def test_what_a_thread_raises_is_raised_in_its_place(tmp_path: Path) -> None:
    plans = some_plans(tmp_path, "cache: {prompts: read_only}")
    with pytest.raises(EmbeddingMissing):
        list(a_feeder(plans, replace(FEED, num_workers=2)).steps())


def test_a_batch_moves_to_a_device_whole(tmp_path: Path) -> None:
    moved = first_batch(tmp_path).to(torch.device("meta"))
    assert moved.latents.device.type == moved.conditions.time_ids.device.type == "meta"
