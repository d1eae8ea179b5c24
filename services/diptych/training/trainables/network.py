"""One expert as training calls it: noisy latents and conditions in, the prediction out."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from typing_extensions import override

from diptych.training.conditions import Conditions
from diptych.training.trainables.texts import TrainedTexts

__all__ = ["ExpertNetwork"]


class ExpertNetwork(nn.Module):
    """A UNet and, where they are trained, the text encoders before it."""

    def __init__(
        self, unet: UNet2DConditionModel, texts: TrainedTexts | None, *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.unet = unet
        self.texts = texts
        self._dtype = dtype

    @override
    def forward(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Return the prediction [B, 4, h, w] float32, computed in the network's dtype.

        Timesteps and time ids are never half: bfloat16 holds integers above 256 only in steps.
        Their embeddings become half afterwards, as they do where the model is served.

        Args:
            noisy: Noisy scaled latents [B, 4, h, w].
            t: Timesteps [B] int64.
            conditions: Texts where encoders are trained, else embeddings.
        """
        assert conditions.time_ids.dtype is torch.float32
        if self.texts is not None:
            assert conditions.texts is not None
            hidden, pooled = self.texts(conditions.texts)
        else:
            assert conditions.prompt_embeds is not None
            assert conditions.pooled is not None
            hidden, pooled = conditions.prompt_embeds, conditions.pooled
        prediction: Tensor = self.unet(
            noisy.to(self._dtype),
            t,
            hidden.to(self._dtype),
            added_cond_kwargs={
                "text_embeds": pooled.to(self._dtype),
                "time_ids": conditions.time_ids,
            },
            return_dict=False,
        )[0]
        return prediction.float()
