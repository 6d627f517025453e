"""Unlearning methods, one a file, each with `Settings` and `Method` (see `tasks/protocol.py`).

Another package brings a method by the entry point group `erase.methods` (`erase.registry`).
"""
