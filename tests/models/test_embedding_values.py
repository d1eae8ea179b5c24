"""Tensors survive the cache bit for bit, and what nobody could use is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.embeddings.entry import read_entry, write_entry
from diptych.embeddings.key import StoredDtype
from diptych.errors import EmbeddingInvalid
from diptych.models.embedding_values import (
    dtype_name,
    from_entry,
    read_prompt,
    to_entry,
    write_prompt,
)
from diptych.models.text_encoders import PromptEmbeds

CPU = torch.device("cpu")
DTYPES: tuple[StoredDtype, ...] = ("float32", "float16", "bfloat16")


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_tensor_comes_back_bit_for_bit(
    dtype: StoredDtype, rows: int, columns: int, seed: int
) -> None:
    mean = drawn(4, rows, columns, dtype=getattr(torch, dtype), seed=seed)
    entry = to_entry("image", {"mean": mean, "std": mean.abs()}, dtype)
    found = from_entry(read_entry(write_entry(entry)))
    assert found["mean"].dtype == mean.dtype
    assert torch.equal(found["mean"], mean)
    assert torch.equal(found["std"], mean.abs())


def test_what_comes_back_is_a_copy_of_its_own() -> None:
    data = write_prompt(PromptEmbeds(hidden=drawn(1, 3, 2), pooled=drawn(1, 2)), "float32")
    read_prompt(data, device=CPU, dtype=torch.float32).hidden.zero_()
    again = read_prompt(data, device=CPU, dtype=torch.float32)
    assert torch.equal(again.hidden, drawn(1, 3, 2))


def test_a_view_is_kept_as_it_looks() -> None:
    mean = drawn(4, 6).T[::2]
    entry = to_entry("image", {"mean": mean, "std": mean}, "float32")
    assert torch.equal(from_entry(entry)["mean"], mean)


def test_is_read_as_the_dtype_that_is_asked_for() -> None:
    embeds = PromptEmbeds(hidden=drawn(1, 3, 2), pooled=drawn(1, 2))
    found = read_prompt(write_prompt(embeds, "float16"), device=CPU, dtype=torch.float32)
    assert found.hidden.dtype == torch.float32
    assert torch.equal(found.hidden, embeds.hidden.half().float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_what_is_not_finite_in_the_kept_dtype_is_refused(value: float) -> None:
    mean = torch.tensor([0.0, value])
    with pytest.raises(EmbeddingInvalid, match=r"image's mean .* not finite as float16"):
        to_entry("image", {"mean": mean, "std": mean}, "float16")


def test_an_images_entry_is_no_prompt() -> None:
    data = write_entry(
        to_entry("image", {"mean": drawn(4, 2, 2), "std": drawn(4, 2, 2)}, "float32")
    )
    with pytest.raises(EmbeddingInvalid, match="'image', expected 'prompt'"):
        read_prompt(data, device=CPU, dtype=torch.float32)


def test_dtypes_are_called_as_in_keys() -> None:
    assert [dtype_name(getattr(torch, name)) for name in DTYPES] == list(DTYPES)
