"""Adapters as values: read, written, named, merged, and applied row by row."""
