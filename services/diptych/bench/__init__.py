"""Benchmarks against peers: each is a ratio measured in one run, printed and written as JSON."""
