"""Where Triton has no wheels, its kernels and their tests are done without."""

import importlib.util

__all__ = ["collect_ignore_glob"]

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*_triton.py"]
