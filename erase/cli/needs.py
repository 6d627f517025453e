"""What `erase fetch` and `erase doctor` give to the inventory of the rooms above it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erase.artifacts.inventory import Item


def list_items(
    suites: Sequence[str] = (),
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> list[Item]:
    """As `erase.artifacts.inventory.list_items`, with every kind of model that can be loaded."""
    from erase.artifacts import inventory

    return inventory.list_items(suites, models, metrics, weights, find_model=_find_model)


def read_prompts() -> tuple[int, str]:
    """How many class lists the prompt files hold, each read, and their hash."""
    from erase.data.prompts import prompts_hash, prompts_root, read_class_list

    root = prompts_root()
    return len([read_class_list(file) for file in sorted(root.glob("*.yaml"))]), prompts_hash(root)


def _find_model(name: str) -> Path:
    from erase.models.loading import resolve

    return resolve(name, fetch=False).path
