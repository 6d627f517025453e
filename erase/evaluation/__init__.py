"""Rendering, scoring and reporting."""
