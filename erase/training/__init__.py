"""The unlearning loop, its checkpoints, and the runs built on it."""
