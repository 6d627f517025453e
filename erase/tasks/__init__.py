"""A task is a model with its losses and its forget and retain batches."""
