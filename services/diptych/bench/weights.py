"""The weights of a pair as one digest, to see whether anything has written to them."""

import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from diptych.models.experts import Experts

__all__ = ["digest_of_weights", "layout_of_modules"]


def digest_of_weights(experts: Experts) -> str:
    """Return the SHA-256 of every parameter and buffer, bit for bit."""
    digest = hashlib.sha256()
    for name, module in _modules(experts):
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def layout_of_modules(experts: Experts) -> list[tuple[str, type[nn.Module], tuple[int, ...]]]:
    """Return every module's name and class, and where its own parameters lie."""
    return [
        (
            f"{name}.{key}",
            type(module),
            tuple(parameter.data_ptr() for parameter in module.parameters(recurse=False)),
        )
        for name, network in _modules(experts)
        for key, module in network.named_modules()
    ]


def _modules(experts: Experts) -> Iterator[tuple[str, nn.Module]]:
    for expert in experts.hosted:
        yield f"{expert.name}.unet", expert.unet.module
        yield f"{expert.name}.vae", expert.vae.module
        for encoder in expert.text.encoders:
            yield f"{expert.name}.{encoder.name}", encoder.module
