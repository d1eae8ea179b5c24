"""One expert's UNet: noisy latents and conditions in, the model's prediction out."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diptych.models.assembly import assemble, require_class
from diptych.models.parts import Part

__all__ = ["Unet", "load_unet"]


class Unet:
    """A UNet of SDXL's kind with frozen weights.

    Holds no state between calls; any number of rows with unlike timesteps share a call.
    """

    def __init__(self, module: UNet2DConditionModel, *, fingerprint: str) -> None:
        self.module = module
        self.fingerprint = fingerprint
        self.dtype: torch.dtype = next(module.parameters()).dtype
        self.device: torch.device = next(module.parameters()).device

    def predict(
        self, x: Tensor, timestep: Tensor, *, hidden: Tensor, pooled: Tensor, time_ids: Tensor
    ) -> Tensor:
        """Return the prediction (epsilon, v or sample) [B, 4, h, w] for ``x``, in its dtype.

        Args:
            x: Scaled noisy latents [B, 4, h, w].
            timestep: [B] float32. Never half: bfloat16 holds integers above 256 only in steps.
            hidden: Text encoders' hidden states [B, T, D], in the weights' dtype.
            pooled: Pooled text embedding [B, P], in the weights' dtype.
            time_ids: Micro-conditions [B, 5 or 6] float32, never half for the same reason.
        """
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        prediction: Tensor = self.module(
            x.to(self.dtype), timestep, hidden, added_cond_kwargs=conditions, return_dict=False
        )[0]
        return prediction.to(x.dtype)


def load_unet(
    part: Part,
    *,
    device: torch.device,
    dtype: torch.dtype,
    fingerprint: str,
    keep_rows: bool = True,
) -> Unet:
    """Return the UNet that ``part`` describes; ``keep_rows`` as ``assemble`` has it.

    Raises:
        CheckpointInvalid: the part is not a UNet2DConditionModel or does not fit its weights.
    """
    require_class(part, "_class_name", "UNet2DConditionModel")
    module = assemble(part, _build, device=device, dtype=dtype, keep_rows=keep_rows)
    return Unet(module, fingerprint=fingerprint)


def _build(config: dict[str, object]) -> UNet2DConditionModel:
    module: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    return module
