"""Adapters of every kind, for properties that must hold of all of them."""

import random
from types import MappingProxyType

import torch
from hypothesis import strategies as st
from torch import Tensor

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Magnitude,
    Stage,
    Target,
)

__all__ = ["DTYPES", "adapters", "learned_tokens", "low_ranks", "made_fors", "noise"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
TEXT_ENCODERS = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
MODULES = {
    Component.UNET: (
        "conv_in",
        "down_blocks.1.attentions.0.proj_in",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.1.attn2.to_out.0",
        "mid_block.resnets.0.conv1",
        "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
    ),
    Component.TEXT_ENCODER: (
        "text_model.encoder.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.1.mlp.fc1",
    ),
}
MODULES[Component.REFINER_UNET] = MODULES[Component.UNET][:3]
MODULES[Component.TEXT_ENCODER_2] = MODULES[Component.TEXT_ENCODER]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal noise of ``shape``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def low_ranks(
    draw: st.DrawFn,
    *,
    convolution: bool,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    dora: bool = True,
    per_input: bool = True,
) -> LowRank:
    """Draw an update of a small linear layer or convolution of 3x3."""
    # One draw for all sizes: hypothesis would take longer over each than torch over the tensors.
    seed = draw(st.integers(0, 2**16))
    chance = random.Random(seed)
    rank, num_out, num_in = (chance.randint(least, 6) for least in (1, 2, 2))
    dtype = chance.choice(dtypes)
    side = chance.choice([None, False, *([True] if per_input else [])]) if dora else None
    kernel = (3, 3) if convolution else ()
    norms = noise(num_in if side else num_out, seed=seed + 2, dtype=dtype).abs()
    return LowRank(
        down=noise(rank, num_in, *kernel, seed=seed, dtype=dtype),
        up=noise(num_out, rank, seed=seed + 1, dtype=dtype),
        alpha=draw(st.floats(-8, 128, width=32)),
        magnitude=None if side is None else Magnitude(norms=norms, per_input=side),
    )


@st.composite
def learned_tokens(draw: st.DrawFn, *, dtypes: tuple[torch.dtype, ...] = DTYPES) -> LearnedToken:
    """Draw a token of one or both encoders."""
    seed = draw(st.integers(0, 2**16))
    chance = random.Random(seed)
    num_vectors, dtype = chance.randint(1, 3), chance.choice(dtypes)
    parts = chance.sample(TEXT_ENCODERS, chance.randint(1, 2))
    widths = {Component.TEXT_ENCODER: 768, Component.TEXT_ENCODER_2: 1280}
    vectors = {part: noise(num_vectors, widths[part], seed=seed, dtype=dtype) for part in parts}
    return LearnedToken(vectors=MappingProxyType(vectors))


def made_fors() -> st.SearchStrategy[MadeFor]:
    """Draw what an adapter was made for."""
    timesteps = st.tuples(st.integers(0, 499), st.integers(500, 999))
    return st.builds(
        MadeFor,
        family=st.none() | TEXTS,
        base_fingerprint=st.none() | TEXTS,
        stage=st.sampled_from(Stage),
        prediction_type=st.none() | st.sampled_from(["epsilon", "v_prediction"]),
        zero_snr=st.none() | st.booleans(),
        timestep_range=st.none() | timesteps,
    )


@st.composite
def adapters(
    draw: st.DrawFn,
    *,
    components: tuple[Component, ...] = tuple(Component),
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    dora: bool = True,
    per_input: bool = True,
    tokens: bool = True,
) -> Adapter:
    """Draw an adapter of at least one target or token."""
    allowed = [Target(component=part, module=name) for part in components for name in MODULES[part]]
    minimum = 0 if tokens else 1
    chosen = draw(st.lists(st.sampled_from(allowed), min_size=minimum, max_size=4, unique=True))
    targets = {
        target: draw(
            low_ranks(
                convolution="conv" in target.module,
                dtypes=dtypes,
                dora=dora,
                per_input=per_input,
            )
        )
        for target in chosen
    }
    texts, widest = st.sampled_from(["<s0>", "<s1>", "huggy", "a b"]), 2 if tokens else 0
    of_tokens = learned_tokens(dtypes=dtypes)
    minimum = 0 if targets else 1
    learned = draw(st.dictionaries(texts, of_tokens, min_size=minimum, max_size=widest))
    return Adapter(
        targets=MappingProxyType(targets),
        tokens=MappingProxyType(learned),
        made_for=draw(made_fors()),
        trigger_words=tuple(draw(st.lists(TEXTS, max_size=2))),
        metadata=MappingProxyType(draw(st.dictionaries(TEXTS, TEXTS, max_size=2))),
    )
