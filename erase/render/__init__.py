"""Prompts to images, sharded and resumable."""
