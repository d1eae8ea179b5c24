"""Conditions: time ids stay float32 wherever they go."""

import torch

from diptych.training.conditions import Conditions


def test_time_ids_keep_their_precision_on_the_way_to_a_device() -> None:
    ids = torch.tensor([[1333.0, 777.0, 0.0, 301.0, 1024.0, 1024.0]])
    one = Conditions(prompt_embeds=None, pooled=None, time_ids=ids, texts=("a fox",))
    moved = one.to(torch.device("cpu"))
    assert moved.time_ids.dtype == torch.float32
    assert moved.time_ids.equal(ids)
    assert moved.prompt_embeds is None


def test_embeddings_move_with_the_time_ids() -> None:
    embeds, pooled, ids = torch.ones(1, 77, 8), torch.ones(1, 4), torch.ones(1, 6)
    one = Conditions(prompt_embeds=embeds, pooled=pooled, time_ids=ids, texts=None)
    moved = one.to(torch.device("meta"))
    assert moved.prompt_embeds is not None
    assert moved.pooled is not None
    assert {moved.prompt_embeds.device.type, moved.pooled.device.type} == {"meta"}
