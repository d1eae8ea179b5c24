"""Blobs by digest, names that move by compare-and-swap, and what buckets and folders hold."""
