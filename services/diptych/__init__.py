"""Diptych: fine-tunes and serves text-to-image models whose schedule two experts share."""

__all__ = ["__version__"]

__version__ = "0.1.0"
