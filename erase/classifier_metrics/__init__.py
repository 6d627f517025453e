"""Metrics of classifier unlearning that outputs alone do not decide: one class a file."""
