"""The inventory as `erase fetch` and `erase doctor` use it, with models and prompts filled in."""

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
    """`erase.artifacts.inventory.list_items`, which also finds every model that can be loaded."""
    from erase.artifacts import inventory

    return inventory.list_items(suites, models, metrics, weights, find_model=_find_model)


def read_prompts() -> tuple[int, str]:
    """Read every class list of the prompt files; returns their number and the files' hash."""
    from erase.data.prompts import prompts_hash, prompts_root, read_class_list

    root = prompts_root()
    return len([read_class_list(file) for file in sorted(root.glob("*.yaml"))]), prompts_hash(root)


def _find_model(name: str) -> Path:
    from erase.models.loading import resolve

    return resolve(name, fetch=False).path
