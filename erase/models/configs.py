"""The configurations of a diffusers folder: networks made from them, and no paths in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch.nn import Module

from erase.errors import InputError, first_line
from erase.files import read_json, write_json

PATHS = ("_name_or_path", "name_or_path")


def read_config(file: Path) -> dict[str, Any]:
    """The configuration of a part of a model; those of schedulers may hold infinities."""
    return read_json(file, finite=False)


def part_skeleton(folder: Path) -> Module | None:
    """`part_network` on the meta device."""
    with torch.device("meta"):
        return part_network(folder)


def part_network(folder: Path) -> Module | None:
    """The untrained network of one part of a diffusers folder.

    Its class is the one that the part's `config.json` names; None if the libraries lack it.
    """
    file = folder / "config.json"
    config = read_config(file)
    own, names = config.get("_class_name"), config.get("architectures")
    name = str(own or (names[0] if isinstance(names, list) and names else "CLIPTextModel"))
    kind: Any = getattr(diffusers if own else transformers, name, None)

    def make() -> Any:
        return kind.from_config(config) if own else kind(kind.config_class.from_dict(config))

    network = made(make, name, file) if kind else None
    return network if isinstance(network, Module) else None


def network_of(kind: Any, folder: Path) -> Any:
    """An untrained network of diffusers from its configuration; InputError where it has another."""
    file = folder / "config.json"
    config = read_config(file)
    return made(lambda: kind.from_config(config), kind.__name__, file)


def made(make: Callable[[], Any], what: str, file: Path) -> Any:
    """What a library makes of a configuration; InputError, naming the file, where it cannot."""
    try:
        return make()
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise any kind for a configuration that is wrong
        raise InputError(
            f"{file} describes no {what}: {first_line(error)}",
            "Restore the file from what wrote it.",
        ) from error


def drop_paths(folder: Path) -> None:
    """Take out of a saved pipeline's configurations where the base was loaded from.

    diffusers and transformers write that path into them. It tells of the user's machine, and the
    same model would have another fingerprint on each.
    """
    for path in (folder / "model_index.json", *folder.glob("*/*config.json")):
        content = read_config(path)
        kept = {name: value for name, value in content.items() if name not in PATHS}
        if len(kept) < len(content):
            write_json(path, kept)
