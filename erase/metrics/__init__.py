"""Metrics: one file each, found by its name; from rendered images to numbers.

Each file defines one subclass of `erase.scoring.metric.Metric`. Another package brings a metric by
the entry point group `erase.metrics` (`erase.registry`). A metric imports no other metric and no
suite.
"""
