"""Timesteps and time ids reach their embeddings unrounded, whatever is computed in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from support.trained import TIME_IDS, batch_of, load
from support.trained_jobs import job


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("place", "values"), [("add_time_proj", TIME_IDS), ("time_proj", None)])
def test_embeds_times_as_float32_does(
    place: str, values: Any, method: Any, small: dict[str, Any], tmp_path: Path
) -> None:
    trained = load(job(run={"precision": "bf16"}, **small, method=method), tmp_path)
    noisy, _, told = batch_of()
    times = torch.tensor([777, 301])
    seen: list[Tensor] = []
    embedding = getattr(trained.network.unet, place)
    embedding.register_forward_hook(lambda _, __, output: seen.append(output))
    trained.predict(noisy, times, told)
    asked = torch.tensor(values * 2) if values else times
    expected, rounded = (
        get_timestep_embedding(
            own, embedding.num_channels, flip_sin_to_cos=True, downscale_freq_shift=0.0
        )
        for own in (asked.float(), asked.bfloat16().float())
    )
    torch.testing.assert_close(seen[0].view_as(expected), expected, rtol=0.0, atol=1e-6)
    assert (expected - rounded).abs().max() > 0.1


def test_takes_no_half_time_ids(small: dict[str, Any], tmp_path: Path) -> None:
    trained = load(job(**small), tmp_path)
    noisy, t, told = batch_of()
    with pytest.raises(AssertionError):
        trained.predict(noisy, t, type(told)(time_ids=told.time_ids.half(), texts=("a", "b")))
