"""Unlearning methods, one a file, each with `Settings` and `Method` (see `tasks/protocol.py`)."""
