"""Attacks: whether a model still shows what it was made to forget; a file of this folder each."""
