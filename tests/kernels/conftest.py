"""Where there is no GPU, Triton kernels run in Triton's own interpreter.

Triton decides when it is imported; files of this folder are collected before any test runs.
"""

import importlib.util
import os

import torch

__all__ = ["collect_ignore_glob"]

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*_triton.py"]
"""Platforms that Triton has no wheels for do without its kernels, and their tests."""

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
