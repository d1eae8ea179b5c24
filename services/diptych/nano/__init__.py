"""The embedded default: a tiny real SDXL-family pair, its world of scenes, and its judge."""
