"""The configurations of a diffusers folder: networks made from them, and no paths in them."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch.nn import Module

from erase.files import read_json, write_json

PATHS = ("_name_or_path", "name_or_path")


def part_skeleton(folder: Path) -> Module | None:
    """The network of one part of a diffusers folder, on the meta device.

    Its class is the one that the part's `config.json` names; None if the libraries lack it.
    """
    config = read_json(folder / "config.json")
    with torch.device("meta"):
        if name := config.get("_class_name"):
            kind = getattr(diffusers, str(name), None)
            return _checked(kind.from_config(config) if kind else None)
        names = config.get("architectures") or ["CLIPTextModel"]
        kind = getattr(transformers, str(names[0]), None)
        return _checked(kind(kind.config_class.from_dict(config)) if kind else None)


def _checked(network: Any) -> Module | None:
    return network if isinstance(network, Module) else None


def drop_paths(folder: Path) -> None:
    """Take out of a saved pipeline's configurations where the base was loaded from.

    diffusers and transformers write that path into them. It tells of the user's machine, and the
    same model would have another fingerprint on each.
    """
    for path in (folder / "model_index.json", *folder.glob("*/*config.json")):
        content = read_json(path)
        kept = {name: value for name, value in content.items() if name not in PATHS}
        if len(kept) < len(content):
            write_json(path, kept)
