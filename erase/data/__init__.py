"""Data sets and captions."""
