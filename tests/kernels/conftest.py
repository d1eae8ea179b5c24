"""Where there is no GPU, Triton kernels run in Triton's own interpreter.

Triton decides when it is imported; files of this folder are collected before any test runs.
"""

import os

import torch

__all__: list[str] = []

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
