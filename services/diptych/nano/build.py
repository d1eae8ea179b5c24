"""Train the nano pair from nothing on the procedural scenes, and save it in diffusers layout.

The order is: autoencoder; one full-schedule UNet together with its text encoders, kept as
``base-single``; then the two experts, each fine-tuned from it on its own timesteps. Every phase
leaves its weights in ``<out>/work``, so a build that was stopped goes on from the last phase.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from typing_extensions import override

from diptych.nano.architecture import (
    SCHEDULER_CONFIG,
    build_autoencoder,
    build_scheduler,
    build_text_encoders,
    build_tokenizer,
    build_unet,
)
from diptych.nano.scenes import (
    NUM_TEMPLATES,
    PICTURE_SIZE,
    Scene,
    caption,
    is_held_out,
    render,
    sample_scene,
)

__all__ = ["EXPERT_TIMESTEPS", "BuildConfig", "build", "pixels_of", "tokenize"]

logger = logging.getLogger(__name__)

EXPERT_TIMESTEPS = {"base": (350, 1000), "refiner": (0, 350)}
"""Expert -> its half-open range of timesteps; the pair's boundary is 0.65."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How long and on what the nano pair is trained; docs/nano.md says how the shipped one was."""

    out: Path
    seed: int = 0
    num_scenes: int = 24_000
    vae_steps: int = 10_000
    vae_batch: int = 8
    unet_steps: int = 6_000
    base_steps: int = 4_000
    refiner_steps: int = 800
    unet_batch: int = 32
    device: str = "cpu"


class _Conditioned(nn.Module):
    """The UNet and the two text encoders as one trainable thing."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2

    def embed(self, ids: Tensor, zeroed: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompt_embeds [B, 77, 128] and pooled [B, 64]; rows of ``zeroed`` are zero."""
        first = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(ids, output_hidden_states=True)
        keep = (~zeroed).to(first.dtype)
        hidden = torch.cat([first, second.hidden_states[-2]], dim=-1) * keep[:, None, None]
        return hidden, second.text_embeds * keep[:, None]

    @override
    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor, zeroed: Tensor) -> Tensor:
        """Return the predicted v [B, 4, h, w] for noisy latents, timesteps [B], ids [B, 77]."""
        hidden, pooled = self.embed(ids, zeroed)
        edge = float(PICTURE_SIZE)
        time_ids = torch.tensor([edge, edge, 0, 0, edge, edge], device=noisy.device)
        added = {"text_embeds": pooled, "time_ids": time_ids.expand(len(noisy), -1)}
        prediction: Tensor = self.unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample
        return prediction


def build(config: BuildConfig) -> None:
    """Train everything that is not yet under ``config.out`` and save the three folders there."""
    work = config.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(config.seed)
    drawn = (sample_scene(rng) for _ in range(config.num_scenes))
    scenes = [scene for scene in drawn if not is_held_out(scene)]
    tokenizer = build_tokenizer([caption(s, i % NUM_TEMPLATES) for i, s in enumerate(scenes)])
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.set_rng_state(generator.get_state())
        vae = _trained_autoencoder(config, work, scenes)
        data = _Dataset.encode(config, vae, tokenizer, scenes)
        model = _Conditioned(build_unet(), *build_text_encoders(tokenizer)).to(config.device)
        _fit(model, data, config, work / "single.safetensors", (0, 1000), config.unet_steps, 6e-4)
        _save(config, "base-single", vae, model, tokenizer)
        model.text_encoder.requires_grad_(requires_grad=False)
        model.text_encoder_2.requires_grad_(requires_grad=False)
        for name, timesteps in EXPERT_TIMESTEPS.items():
            model.load_state_dict(load_file(work / "single.safetensors"))
            weights = work / f"{name}.safetensors"
            steps = config.base_steps if name == "base" else config.refiner_steps
            _fit(model, data, config, weights, timesteps, steps, 4e-4)
            _save(config, name, vae, model, tokenizer)


def _trained_autoencoder(config: BuildConfig, work: Path, scenes: list[Scene]) -> AutoencoderKL:
    """Fit the autoencoder: L2 and L1 on pixels, L1 on their differences, L2 on coarse colour."""
    vae = build_autoencoder().to(config.device)
    _sharpen_posterior(vae)
    weights = work / "vae.safetensors"
    if not weights.exists():
        rng = random.Random(config.seed + 1)

        def loss(_: int) -> Tensor:
            batch = rng.sample(scenes, config.vae_batch)
            x = pixels_of([render(s, rng) for s in batch]).to(config.device)
            with torch.autocast(config.device, torch.bfloat16):
                posterior = vae.encode(x).latent_dist
                y = vae.decode(posterior.sample()).sample.float()
            error = y - x
            edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
            colour = nn.functional.avg_pool2d(error, 4).square().mean()
            kl = posterior.kl().float().mean()
            pixel = 4 * error.square().mean() + 0.5 * error.abs().mean() + 0.25 * edges
            total: Tensor = pixel + 8 * colour + 1e-7 * kl
            return total

        _optimise(vae, loss, steps=config.vae_steps, lr=1e-3, label="vae", checkpoint=weights)
    vae.load_state_dict(load_file(weights))
    vae.eval().requires_grad_(requires_grad=False)
    probe = random.Random(config.seed + 2)
    pixels = pixels_of([render(s, probe) for s in scenes[:512]]).to(config.device)
    _normalise(vae, pixels)
    _narrow_posterior(vae)
    return vae


@torch.no_grad()
def _sharpen_posterior(vae: AutoencoderKL) -> None:
    """Start with a posterior deviation of exp(-3); from 1, some channels never come to carry."""
    num_channels = vae.config.latent_channels
    vae.quant_conv.weight[num_channels:] = 0
    vae.quant_conv.bias[num_channels:] = -6


@torch.no_grad()
def _normalise(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Give the latents of ``pixels`` mean 0 and deviation 1 in each channel, exactly.

    The shift and scale go into the two 1x1 convolutions around the latents, so every picture
    is decoded as before and ``scaling_factor`` is 1.
    """
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in pixels.chunk(8)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    enter, leave = vae.quant_conv, vae.post_quant_conv
    num_channels = len(mean)
    enter.weight[:num_channels] /= std[:, None, None, None]
    enter.bias[:num_channels] = (enter.bias[:num_channels] - mean) / std
    enter.bias[num_channels:] -= 2 * std.log()
    leave.bias += torch.einsum("oi,i->o", leave.weight[:, :, 0, 0], mean)
    leave.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def _narrow_posterior(vae: AutoencoderKL) -> None:
    """Give every latent a posterior deviation of exp(-6), whatever the picture.

    The decoder came to ignore what is drawn in some channels, so their posterior is as wide as the
    latents themselves; the UNets learn on the mean, and whoever draws should find what they know.
    """
    enter = vae.quant_conv
    num_channels = vae.config.latent_channels
    enter.weight[num_channels:] = 0
    enter.bias[num_channels:] = -12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    """Scaled latents [N, 4, 16, 16] and, per phrasing, token ids [N, T, 77]."""

    latents: Tensor
    ids: Tensor
    empty_ids: Tensor

    @classmethod
    def encode(
        cls,
        config: BuildConfig,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        scenes: list[Scene],
    ) -> "_Dataset":
        rng = random.Random(config.seed + 3)
        latents = []
        for start in range(0, len(scenes), 64):
            pixels = pixels_of([render(s, rng) for s in scenes[start : start + 64]])
            with torch.no_grad(), torch.autocast(config.device, torch.bfloat16):
                posterior = vae.encode(pixels.to(config.device)).latent_dist
            latents.append(posterior.mean.float() * vae.config.scaling_factor)
        texts = [caption(s, t) for s in scenes for t in range(NUM_TEMPLATES)]
        ids = tokenize(tokenizer, texts).view(len(scenes), NUM_TEMPLATES, -1)
        logger.info("%d scenes encoded", len(scenes))
        return cls(latents=torch.cat(latents), ids=ids, empty_ids=tokenize(tokenizer, [""])[0])

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield latents, ids and which rows are unconditional, for ever."""
        rng = np.random.default_rng(seed)
        shares = np.array([0.2] * 4 + [0.05] * 4)
        while True:
            rows = torch.from_numpy(rng.integers(len(self.latents), size=size))
            phrasing = torch.from_numpy(rng.choice(NUM_TEMPLATES, size=size, p=shares))
            ids = self.ids[rows, phrasing].long()
            fate = torch.from_numpy(rng.random(size))
            ids[fate < 0.05] = self.empty_ids.long()
            yield self.latents[rows], ids, (fate >= 0.05) & (fate < 0.12)


def _fit(
    model: _Conditioned,
    data: _Dataset,
    config: BuildConfig,
    weights: Path,
    timesteps: tuple[int, int],
    steps: int,
    lr: float,
) -> None:
    """Train on timesteps [first, last) for v-prediction; leave the EMA in model and file."""
    if not weights.exists():
        noise_schedule = DDPMScheduler(**SCHEDULER_CONFIG)
        batches = data.batches(config.unet_batch, config.seed + 4)
        first, last = timesteps

        def loss(_: int) -> Tensor:
            latents, ids, zeroed = (part.to(config.device) for part in next(batches))
            size = len(latents)
            # Stratified: the batch covers its range evenly, which halves the loss's variance.
            share = (torch.arange(size) + torch.rand(size)) / size
            t = (first + share * (last - first)).long().to(config.device)
            noise = torch.randn_like(latents)
            noisy = noise_schedule.add_noise(latents, noise, t)
            with torch.autocast(config.device, torch.bfloat16):
                v = model(noisy, t, ids, zeroed).float()
            target: Tensor = noise_schedule.get_velocity(latents, noise, t)
            return nn.functional.mse_loss(v, target)

        _optimise(model, loss, steps=steps, lr=lr, label=weights.stem, checkpoint=weights)
    model.load_state_dict(load_file(weights))


def _optimise(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    label: str,
    checkpoint: Path,
) -> None:
    """Run AdamW with warm-up and cosine decay; write the weights' moving average at the end."""
    model.train()
    snapshot = checkpoint.with_suffix(".partial")
    if snapshot.exists():
        model.load_state_dict(load_file(snapshot))
        logger.info("%s goes on from its last snapshot", label)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _pace(k, steps))
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    running, began = 0.0, time.monotonic()
    for step in range(steps):
        value = loss(step)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        running += value.item()
        if step % 2 == 1:
            _average(average, model.state_dict(), min(0.998, (step + 1) / (step + 20)))
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - began) / (step + 1)
            logger.info("%s step %d loss %.4f %.3f s/step", label, step + 1, running / 100, pace)
            running = 0.0
        if (step + 1) % 1000 == 0:
            _write(average, snapshot)
    _write(average, checkpoint)


def _pace(step: int, steps: int) -> float:
    """Return the learning rate's factor: 200 steps of warm-up, then cosine down to 0.02."""
    return min((step + 1) / 200, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _average(average: dict[str, Tensor], now: dict[str, Tensor], decay: float) -> None:
    for name, value in now.items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - decay)


def _write(weights: dict[str, Tensor], path: Path) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in weights.items()}, temporary)
    temporary.replace(path)


def _save(
    config: BuildConfig,
    name: str,
    vae: AutoencoderKL,
    model: _Conditioned,
    tokenizer: CLIPTokenizer,
) -> None:
    """Save one folder in diffusers layout, float16, without touching the modules in hand."""
    kind: Any = StableDiffusionXLImg2ImgPipeline if name == "refiner" else StableDiffusionXLPipeline
    pipeline = kind(
        vae=vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        add_watermarker=False,
    )
    modules: tuple[nn.Module, ...] = (vae, model.text_encoder, model.text_encoder_2, model.unet)
    for module in modules:
        module.to(torch.float16)
    pipeline.save_pretrained(config.out / name, safe_serialization=True)
    for folder in ("tokenizer", "tokenizer_2"):
        tokenizer.backend_tokenizer.model.save(str(config.out / name / folder))
    for module in modules:
        module.to(torch.float32)


def pixels_of(pictures: list[Image.Image]) -> Tensor:
    """Return pictures as [N, 3, H, W] float32 in [-1, 1]."""
    array = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return ids padded to the window, [N, 77], int16."""
    batch = tokenizer(texts, padding="max_length", truncation=True)
    return torch.tensor(batch.input_ids, dtype=torch.int16)
