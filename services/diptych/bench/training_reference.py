"""LoRA trained by the plain loop of diffusers' SDXL scripts, with nothing of ours.

What ``train_text_to_image_lora_sdxl.py`` does at every step, in its order: open and resize the
images, tokenize, encode texts and images, add noise, one forward and backward through the UNet,
clip, AdamW. ``encodes`` chooses whether it encodes as it goes or has everything in memory.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

__all__ = ["Picture", "PlainConfig", "PlainModels", "PlainTraining"]

Picture = tuple[Path, str]
"""A file and its caption."""
_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
_Embedded = tuple[Tensor, Tensor, Tensor]
"""Latents [B, 4, h, w], prompt_embeds [B, T, D] and pooled [B, P]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainConfig:
    """What both sides of a comparison train."""

    resolution: int = 128
    batch_size: int = 4
    rank: int | None = 16
    """None trains all weights, as ``train_text_to_image_sdxl.py`` does."""
    learning_rate: float = 1e-4
    num_steps: int = 50
    seed: int = 0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainModels:
    """What the scripts load: in float32, as they do, but for an accelerator's frozen UNet."""

    unet: UNet2DConditionModel
    schedule: DDPMScheduler
    vae: AutoencoderKL | None = None
    """None, like no encoders, where everything is encoded before."""
    encoders: Sequence[Any] = ()
    tokenizers: Sequence[CLIPTokenizer] = ()

    @classmethod
    def load(cls, folder: Path) -> "PlainModels":
        """Return the models of a folder in diffusers' layout, on the CPU."""
        first: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
        second: Any = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
        vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet")
        tokenizers = [
            CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")
        ]
        return cls(
            unet=unet.float(),
            schedule=DDPMScheduler.from_pretrained(folder / "scheduler"),
            vae=vae.float(),
            encoders=[first.float(), second.float()],
            tokenizers=tokenizers,
        )


class PlainTraining:
    """A model, or a fresh LoRA of rank r on its attention, in the loop's hands."""

    def __init__(self, models: PlainModels, config: PlainConfig) -> None:
        """Take the models, which are changed."""
        torch.manual_seed(config.seed)  # noqa: TID251 - as the script does
        self._config = config
        on_cpu = next(models.unet.parameters()).device.type == "cpu"
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision=config.mixed_precision)
        device = self._accelerator.device
        self._tokenizers = models.tokenizers
        self._encoders = [one.to(device).eval() for one in models.encoders]
        self._vae = None if models.vae is None else models.vae.to(device).eval()
        self._schedule = models.schedule
        for model in (*self._encoders, self._vae):
            if model is not None:
                model.requires_grad_(requires_grad=False)
        unet = models.unet.to(device)
        unet.requires_grad_(requires_grad=config.rank is None)
        if config.rank is not None:
            self._add_update(unet, config.rank)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self._trained = [one for one in unet.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(self._trained, lr=config.learning_rate)
        self.unet, self._optimizer = self._accelerator.prepare(unet, optimizer)

    @staticmethod
    def _add_update(unet: UNet2DConditionModel, rank: int) -> None:
        unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_ATTENTION
            )
        )
        cast_training_params(unet)  # to float32

    def train(self, pictures: Sequence[Picture], *, encodes: bool) -> float:
        """Train for the configured steps and return the seconds they took.

        Without ``encodes`` everything is encoded before the time begins.
        """
        batches = self._encoded(pictures) if encodes else self._remembered(pictures)
        self.unet.train()
        began = time.perf_counter()
        for _ in range(self._config.num_steps):
            self.step(*next(batches))
        return time.perf_counter() - began

    def step(self, latents: Tensor, hidden: Tensor, pooled: Tensor) -> None:
        """Take one step on latents [B, 4, h, w], prompt_embeds [B, T, D] and pooled [B, P]."""
        size, edge = len(latents), self._config.resolution
        noise = torch.randn_like(latents)
        total = self._schedule.config.num_train_timesteps
        timesteps = torch.randint(0, total, (size,), device=latents.device)
        noisy = self._schedule.add_noise(latents, noise, timesteps)
        time_ids = torch.tensor([[edge, edge, 0, 0, edge, edge]] * size, device=latents.device)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = self.unet(
            noisy, timesteps, encoder_hidden_states=hidden, added_cond_kwargs=added
        ).sample
        target = noise
        if self._schedule.config.prediction_type == "v_prediction":
            target = self._schedule.get_velocity(latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _encoded(self, pictures: Sequence[Picture]) -> Iterator[_Embedded]:
        """Yield batches for ever, each image opened and each text and image encoded anew."""
        loader: DataLoader[Picture] = DataLoader(
            list(pictures),  # type: ignore[arg-type]
            batch_size=self._config.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=self._opened,
        )
        while True:
            for pixels, texts in loader:
                yield self._embed(pixels, texts)

    def _remembered(self, pictures: Sequence[Picture]) -> Iterator[_Embedded]:
        """Encode everything at once and return an iterator of batches for ever."""
        parts = [self._embed(*self._opened([one])) for one in pictures]
        latents, hidden, pooled = (torch.cat(part) for part in zip(*parts, strict=True))
        size = self._config.batch_size

        def batches() -> Iterator[_Embedded]:
            while True:
                order = torch.randperm(len(latents))
                for at in range(0, len(order) - size + 1, size):
                    rows = order[at : at + size]
                    yield latents[rows], hidden[rows], pooled[rows]

        return batches()

    def _opened(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[str]]:
        edge = self._config.resolution
        arrays = []
        for path, _ in pictures:
            with Image.open(path) as opened:
                picture = opened.convert("RGB").resize((edge, edge), Image.Resampling.LANCZOS)
            arrays.append(np.asarray(picture, dtype=np.float32) / 127.5 - 1)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), [
            text for _, text in pictures
        ]

    @torch.no_grad()
    def _embed(self, pixels: Tensor, texts: Sequence[str]) -> _Embedded:
        states: list[Tensor] = []
        pooled = None
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            ids = tokenizer(
                list(texts), padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids.to(encoder.device)
            out = encoder(ids, output_hidden_states=True)
            pooled = out[0]
            states.append(out.hidden_states[-2])
        assert pooled is not None
        assert self._vae is not None
        posterior = self._vae.encode(pixels.to(self._vae.device)).latent_dist
        latents = posterior.sample() * self._vae.config.scaling_factor
        return latents, torch.cat(states, dim=-1), pooled
