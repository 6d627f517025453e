"""Suites: one file each, found by its name; what is asked of a model, never what it answers.

Each file defines one subclass of `erase.scoring.suite.Suite`. Another package brings a suite by the
entry point group `erase.suites` (`erase.registry`). A suite imports neither another suite nor a
metric.
"""
