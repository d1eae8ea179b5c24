"""Ways to start a job's worker."""
