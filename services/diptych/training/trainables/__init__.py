"""What a job trains of one expert: its weights by group, its prediction, its state."""
