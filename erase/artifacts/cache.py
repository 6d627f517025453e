"""One cache folder for everything that erase fetches or makes to use again.

The hub's library and torch hub keep caches of their own, which other programs share.
"""

import os
from pathlib import Path
from typing import Literal

from erase.reading import expanded

RENDER_STATE = "render.json"
"""In a folder of rendered images: the fingerprint of all that they depend on."""
Part = Literal["weights", "datasets", "models", "renders", "unpacked"]


def cache_root() -> Path:
    """Where erase keeps things: `ERASE_CACHE`, else `erase` in the user's cache folder."""
    if given := os.environ.get("ERASE_CACHE"):
        return expanded(given)
    return _user_cache() / "erase"


def cache_folder(part: Part) -> Path:
    """The subfolder of the cache for one kind of thing; nothing is made.

    `weights`: pinned weight files; `datasets`: public data sets; `models`: models that the user
    trained to be known by name; `renders`: images of original models; `unpacked`: single-file
    checkpoints as diffusers folders.
    """
    return cache_root() / part


def torch_checkpoints() -> Path:
    """Torch hub's folder of checkpoints, which torchvision downloads to."""
    torch_home = expanded(os.environ.get("TORCH_HOME") or _user_cache() / "torch")
    return torch_home / "hub" / "checkpoints"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
