"""Teach the nano pair the two demo adapters, with peft and diffusers as a user would.

Each expert learns on its own timesteps, so an adapter holds factors for both. ``moon`` also
learns the vectors of its token, together with the base's factors (pivotal tuning: textual
inversion, Gal et al. 2022, beside LoRA, Hu et al. 2021); the refiner then learns with them fixed.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diptych.adapters.adapter import (
    Adapter,
    Component,
    LearnedToken,
    LowRank,
    MadeFor,
    Stage,
    Target,
)
from diptych.adapters.bundle import to_bytes
from diptych.nano.build import EXPERT_TIMESTEPS, pixels_of, tokenize
from diptych.nano.lessons import MOON, Example, moon_example, night_example
from diptych.nano.pair import expert_path
from diptych.nano.scenes import PICTURE_SIZE

__all__ = ["LESSONS", "Lesson", "LessonConfig", "teach"]

logger = logging.getLogger(__name__)

_TARGETS: Final = r".*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)$"
_UNETS: Final = {"base": Component.UNET, "refiner": Component.REFINER_UNET}
_ENCODERS: Final = (Component.TEXT_ENCODER, Component.TEXT_ENCODER_2)
_MADE_FOR: Final = MadeFor(
    family="nano",
    stage=Stage.BOTH,
    prediction_type="v_prediction",
    zero_snr=True,
    timestep_range=(0, 999),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one adapter learns from."""

    draw: Callable[[random.Random], Example]
    token: str | None = None
    starts_as: str = ""
    """The word whose embedding a new token begins with."""
    lr: float
    """Of the factors: a new subject needs to move further than a style."""


LESSONS: Final[Mapping[str, Lesson]] = {
    "night": Lesson(draw=night_example, lr=1e-3),
    "moon": Lesson(draw=moon_example, token=MOON, starts_as="circle", lr=2e-3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonConfig:
    """How long and how large; the defaults are what the shipped adapters were made with."""

    out: Path
    seed: int = 0
    num_examples: int = 3_000
    base_steps: int = 1_200
    refiner_steps: int = 500
    batch: int = 24
    base_rank: int = 8
    refiner_rank: int = 4
    lr: float | None = None
    """None is the lesson's own."""
    token_lr: float = 5e-3


@dataclass(slots=True, kw_only=True)
class _Text:
    """The pair's tokenizer and encoders; a new token is one more row of both tables."""

    tokenizer: CLIPTokenizer
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]

    def add(self, lesson: Lesson) -> list[nn.Parameter]:
        """Add the lesson's token and return the tables to train; without a token nothing."""
        if lesson.token is None:
            return []
        self.tokenizer.add_tokens([lesson.token])
        (start,) = self.tokenizer(lesson.starts_as, add_special_tokens=False).input_ids
        tables = []
        for encoder in self.encoders:
            encoder.resize_token_embeddings(len(self.tokenizer))
            table = encoder.get_input_embeddings().weight
            assert isinstance(table, nn.Parameter)
            with torch.no_grad():
                table[-1] = table[start]
            table.requires_grad = True
            tables.append(table)
        return tables

    def embed(self, ids: Tensor, zeroed: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompt_embeds [B, 77, 128] and pooled [B, 64]; rows of ``zeroed`` are zero."""
        first = self.encoders[0](ids, output_hidden_states=True).hidden_states[-2]
        second = self.encoders[1](ids, output_hidden_states=True)
        keep = (~zeroed).to(first.dtype)
        hidden = torch.cat([first, second.hidden_states[-2]], dim=-1) * keep[:, None, None]
        return hidden, second.text_embeds * keep[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    """Latents [N, 4, 16, 16] and token ids [N, 77] of what is taught."""

    latents: Tensor
    ids: Tensor
    empty_ids: Tensor

    @classmethod
    def draw(cls, lesson: Lesson, config: LessonConfig, text: _Text) -> "_Examples":
        rng = random.Random(config.seed)
        vae = AutoencoderKL.from_pretrained(expert_path("base") / "vae").float().eval()
        latents, texts = [], []
        for _ in range(config.num_examples // 50):
            examples = [lesson.draw(rng) for _ in range(50)]
            texts += [example.text for example in examples]
            with torch.no_grad():
                posterior = vae.encode(pixels_of([e.picture for e in examples])).latent_dist
            latents.append(posterior.mean * vae.config.scaling_factor)
        return cls(
            latents=torch.cat(latents),
            ids=tokenize(text.tokenizer, texts).long(),
            empty_ids=tokenize(text.tokenizer, [""])[0].long(),
        )

    def batches(self, size: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield latents, ids and which rows are unconditional, for ever."""
        while True:
            rows = torch.randint(len(self.latents), (size,), generator=rng)
            fate = torch.rand(size, generator=rng)
            ids = self.ids[rows].clone()
            ids[fate < 0.05] = self.empty_ids
            yield self.latents[rows], ids, (fate >= 0.05) & (fate < 0.12)


def teach(name: str, config: LessonConfig) -> Path:
    """Train the adapter ``name`` of ``LESSONS`` and return its bundle's path."""
    lesson = LESSONS[name]
    text = _load_text()
    tables = text.add(lesson)
    examples = _Examples.draw(lesson, config, text)
    targets: dict[Target, LowRank] = {}
    for expert, component in _UNETS.items():
        own = replace(config, lr=config.lr or lesson.lr)
        unet = _teach_expert(expert, examples, own, text, tables if expert == "base" else [])
        targets |= _targets(component, get_peft_model_state_dict(unet))
    tokens: dict[str, LearnedToken] = {}
    if lesson.token is not None:
        vectors = (table[-1:].detach().half() for table in tables)
        tokens[lesson.token] = LearnedToken(vectors=dict(zip(_ENCODERS, vectors, strict=True)))
    adapter = Adapter(targets=targets, tokens=tokens, made_for=_MADE_FOR)
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / f"{name}.safetensors"
    path.write_bytes(to_bytes(adapter))
    return path


def _targets(component: Component, factors: Mapping[str, Tensor]) -> dict[Target, LowRank]:
    """Return what peft trained, as float16; its alpha was the rank."""
    modules = {key.rpartition(".lora_")[0] for key in factors}
    found: dict[Target, LowRank] = {}
    for module in sorted(modules):
        down, up = (factors[f"{module}.lora_{side}.weight"].detach().half() for side in "AB")
        target = Target(component=component, module=module)
        found[target] = LowRank(down=down, up=up, alpha=float(len(down)))
    return found


def _load_text() -> _Text:
    folder = expert_path("base")
    first: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    second: Any = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
    encoders = (first.float().eval(), second.float().eval())
    for encoder in encoders:
        encoder.requires_grad_(requires_grad=False)
    return _Text(tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), encoders=encoders)


def _teach_expert(
    expert: str,
    examples: _Examples,
    config: LessonConfig,
    text: _Text,
    tables: list[nn.Parameter],
) -> UNet2DConditionModel:
    """Train the factors of one expert on its timesteps, and the last row of ``tables``."""
    unet = UNet2DConditionModel.from_pretrained(expert_path(expert) / "unet").float()
    unet.requires_grad_(requires_grad=False)
    is_base = expert == "base"
    rank = config.base_rank if is_base else config.refiner_rank
    steps = config.base_steps if is_base else config.refiner_steps
    rng = torch.Generator().manual_seed(config.seed + int(is_base))
    with torch.random.fork_rng():
        torch.set_rng_state(rng.get_state())
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS))
    factors = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": factors, "lr": config.lr},
        {"params": tables, "lr": config.token_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    pace = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    batches = examples.batches(config.batch, rng)
    noise_schedule = DDPMScheduler.from_pretrained(expert_path(expert) / "scheduler")
    running, began = 0.0, time.monotonic()
    for step in range(steps):
        loss = _loss(unet, text, noise_schedule, next(batches), (EXPERT_TIMESTEPS[expert], rng))
        torch.autograd.backward(loss)
        for table in tables:
            assert table.grad is not None
            table.grad[:-1] = 0
        nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pace.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            seconds = (time.monotonic() - began) / (step + 1)
            logger.info("%s %d loss %.4f %.2f s/step", expert, step + 1, running / 100, seconds)
            running = 0.0
    return unet


def _loss(
    unet: UNet2DConditionModel,
    text: _Text,
    noise_schedule: DDPMScheduler,
    batch: tuple[Tensor, Tensor, Tensor],
    draws: tuple[tuple[int, int], torch.Generator],
) -> Tensor:
    """Return the mean squared error of v over timesteps that cover their range evenly."""
    (latents, ids, zeroed), ((first, last), rng) = batch, draws
    size = len(latents)
    share = (torch.arange(size) + torch.rand(size, generator=rng)) / size
    timesteps = (first + share * (last - first)).long()
    noise = torch.randn(latents.shape, generator=rng)
    noisy = noise_schedule.add_noise(latents, noise, timesteps)
    hidden, pooled = text.embed(ids, zeroed)
    edge = float(PICTURE_SIZE)
    time_ids = torch.tensor([edge, edge, 0, 0, edge, edge]).expand(size, -1)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    v = unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample
    target: Tensor = noise_schedule.get_velocity(latents, noise, timesteps)
    return nn.functional.mse_loss(v, target)


def _pace(step: int, steps: int) -> float:
    """Return the learning rate's factor: 50 steps of warm-up, then down to a fiftieth."""
    return min((step + 1) / 50, max(0.02, 1 - step / steps))
