"""Checkpoints of the SDXL family, from files to modules an engine can call."""
