"""Timing and memory benchmarks, run as ``python -m benchmarks.NAME``."""
