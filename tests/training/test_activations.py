"""What a forward leaves is foretold within a few hundredths of what autograd saves."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diptych.nano.pair import expert_path
from diptych.training.activations import UnetBlocks, saved_bytes, text_saved_bytes, unet_blocks

MEBIBYTE = 2**20
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SSD_1B = SDXL | {
    "transformer_layers_per_block": [0, [2, 2], [4, 4]],
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}


def blocks_of(config: dict[str, Any]) -> UnetBlocks:
    with torch.device("meta"):
        module = UNet2DConditionModel(**config)
    return unet_blocks({n: tuple(one.shape) for n, one in module.state_dict().items()}, config)


@pytest.fixture(scope="module")
def blocks() -> dict[str, UnetBlocks]:
    """Return the blocks of the two networks that were counted."""
    return {"sdxl": blocks_of(SDXL), "ssd-1b": blocks_of(SSD_1B)}


@pytest.mark.parametrize(
    ("name", "size", "all_trained", "recomputes", "counted_mib"),
    [
        ("sdxl", 512, True, False, 1660.8),
        ("sdxl", 1024, True, False, 6568.9),
        ("sdxl", 1024, False, False, 5345.2),
        ("sdxl", 512, True, True, 140.4),
        ("sdxl", 1024, True, True, 560.7),
        ("sdxl", 1024, False, True, 465.6),
        ("ssd-1b", 512, False, False, 787.6),
        ("ssd-1b", 1024, True, False, 3866.8),
        ("ssd-1b", 1024, False, False, 3115.1),
        ("ssd-1b", 1024, False, True, 365.6),
    ],
)
def test_sums_are_what_autograd_was_seen_to_save(
    blocks: dict[str, UnetBlocks],
    name: str,
    size: int,
    *,
    all_trained: bool,
    recomputes: bool,
    counted_mib: float,
) -> None:
    with_work = saved_bytes(
        blocks[name],
        num_pixels=size**2,
        item_bytes=2,
        all_trained=all_trained,
        recomputes=recomputes,
    )
    # The largest block's work is no saved tensor; of these networks it is the first level's
    # last residual block, 1280 channels in and out, or a transformer block of 640.
    largest = max((3.6 if all_trained else 2.6) * 1280, (28.4 if all_trained else 23.5) * 640 / 4)
    work = largest * size**2 / 64 * 2 * (2 if recomputes else 1)
    assert (with_work - work) / MEBIBYTE == pytest.approx(counted_mib, rel=0.03)


def test_nano_saves_what_is_foretold() -> None:
    unet = UNet2DConditionModel.from_pretrained(expert_path("base") / "unet")
    saved: dict[int, Tensor] = {}
    own = {one.data_ptr() for one in unet.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    conditions = {"text_embeds": torch.zeros(2, 64), "time_ids": torch.zeros(2, 6)}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unet(
            torch.randn(2, 4, 16, 16),
            torch.tensor([10, 20]),
            torch.randn(2, 77, 128),
            added_cond_kwargs=conditions,
        )
    counted = sum(one.untyped_storage().nbytes() for one in saved.values())
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    foretold = saved_bytes(
        unet_blocks(shapes, unet.config),
        num_pixels=2 * 128 * 128,
        item_bytes=4,
        all_trained=True,
        recomputes=False,
    )
    assert counted == pytest.approx(foretold, rel=0.1)


def test_twice_the_pictures_take_twice_the_memory(blocks: dict[str, UnetBlocks]) -> None:
    one, two = (
        saved_bytes(
            blocks["sdxl"],
            num_pixels=num * 512**2,
            item_bytes=2,
            all_trained=False,
            recomputes=True,
        )
        for num in (1, 2)
    )
    assert two == pytest.approx(2 * one, abs=1)


def test_the_original_layouts_blocks_are_the_same(blocks: dict[str, UnetBlocks]) -> None:
    config = {"block_out_channels": (320, 640, 1280), "layers_per_block": 2}
    shapes = {
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
        "input_blocks.4.0.in_layers.2.weight": (640, 320, 3, 3),
        "input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight": (1280, 1280),
        "middle_block.1.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "output_blocks.8.0.in_layers.2.weight": (320, 640, 3, 3),
    }
    found = unet_blocks(shapes, config)
    assert found.residuals == ((640, 0), (960, 1), (960, 0))
    assert found.transformers == ((1280, 2), (1280, 2))
    assert set(found.transformers) <= set(blocks["sdxl"].transformers)


def test_a_text_encoders_layers_count_once_a_layer() -> None:
    shapes = {f"layers.{n}.self_attn.q_proj.weight": (8, 8) for n in range(3)}
    assert text_saved_bytes(shapes, num_texts=2, item_bytes=2) == 34 * 24 * 77 * 2 * 2
