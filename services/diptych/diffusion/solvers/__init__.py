"""Each solver as the sequence of evaluations it makes, written on symbols."""
