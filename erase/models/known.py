"""Public models that are planned before they are downloaded, from their known configurations.

`erase/models/known/` holds the configurations of each (no weights and no tokenizer), as far as
sizes and shapes follow from them.
"""

from __future__ import annotations

from pathlib import Path

from erase.artifacts.models import HUB, HUB_SIZES
from erase.models.loading import ModelSource

FOLDER = Path(__file__).parent / "known"
FOLDERS = {"sd-1.4": "sd-1", "sd-1.5": "sd-1", "sd-2.1": "sd-2.1", "sdxl": "sdxl"}


def known_source(model: str) -> ModelSource | None:
    """The configurations of a public model, by its alias or hub id; None for another model."""
    alias = next((name for name, hub_id in HUB.items() if model in (name, hub_id)), model)
    if alias not in FOLDERS:
        return None
    return ModelSource(model, FOLDER / FOLDERS[alias])


def is_known_only(source: ModelSource) -> bool:
    """Whether the source is only a configuration: its weights are not on this machine."""
    return source.path.is_relative_to(FOLDER)


def download_note(model: str) -> str:
    """What a plan says of a model that is not on this machine yet."""
    alias = next((name for name, hub_id in HUB.items() if model in (name, hub_id)), model)
    return (
        f"{model} is not on this machine: about {HUB_SIZES[alias] / 1e9:.1f} GB are to be fetched;"
        " this plan follows from its published configuration"
    )
