"""Datasets: manifests, where images and captions come from, how they are sized and drawn."""
