"""Weight files that others publish: where they lie on this machine, and how they get there.

Every file is pinned by its SHA-256 and checked each time before it is read, and it is read without
unpickling (`weights_only=True`). The addresses are the libraries' own. Looked for, in this order:
`weights/` in the cache folder (`cache_folder`), and torch hub's folder of checkpoints.
"""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase.artifacts import hub
from erase.artifacts.cache import cache_folder, torch_checkpoints
from erase.artifacts.download import Progress, download
from erase.errors import InputError, MissingError, RunError
from erase.files import hash_file


@dataclass(frozen=True)
class WeightFile:
    """A weight file that others publish."""

    file: str
    """Its name, here as there."""
    sha256: str
    """All 64 digits, as several public projects record them for this file; the name carries the
    first eight."""
    size: int
    """Bytes, about."""
    use: str
    """What it is, for people."""
    address: tuple[str, str]
    """Module and attribute path of the library's constant that holds the URL."""


def _torchvision(names: str, file: str, sha256: str, size: int, use: str) -> WeightFile:
    return WeightFile(file, sha256, size, use, ("torchvision.models", f"{names}.url"))


WEIGHTS = {
    "inception": WeightFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
        "Inception v3, for FID and KID",
        ("torch_fidelity.feature_extractor_inceptionv3", "URL_INCEPTION_V3"),
    ),
    "resnet50": _torchvision(
        "ResNet50_Weights.IMAGENET1K_V2",
        "resnet50-11ad3fa6.pth",
        "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        102_540_417,
        "ImageNet classifier, for UA on Imagenette",
    ),
    "resnet18": _torchvision(
        "ResNet18_Weights.IMAGENET1K_V1",
        "resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        46_830_571,
        "ImageNet start of classifiers of faces",
    ),
    "resnet34": _torchvision(
        "ResNet34_Weights.IMAGENET1K_V1",
        "resnet34-b627a593.pth",
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
        87_300_000,
        "ImageNet start of classifiers of faces",
    ),
    "lpips-alex": _torchvision(
        "AlexNet_Weights.IMAGENET1K_V1",
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
        "AlexNet, LPIPS' backbone",
    ),
    "lpips-vgg": _torchvision(
        "VGG16_Weights.IMAGENET1K_V1",
        "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
        "VGG-16, LPIPS' backbone",
    ),
}
CLIP = {
    "vit-l-14": "openai/clip-vit-large-patch14",
    "vit-b-32": "openai/clip-vit-base-patch32",
}
CLIP_REVISIONS = {
    "vit-l-14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    # The commit that added safetensors; the hub's main branch holds pickled weights only.
    "vit-b-32": "d15b5f29721ca72dac15f8526b284be910de18be",
}
CLIP_SIZES = {"vit-l-14": 1_710_000_000, "vit-b-32": 605_000_000}
CLIP_PATTERNS = ["*.json", "*.txt", "model.safetensors"]
CLIP_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


def weight_names() -> list[str]:
    """Names of all weights: of `WEIGHTS`, and `clip-NAME` for those of `CLIP`."""
    return [*WEIGHTS, *(f"clip-{name}" for name in CLIP)]


def places(name: str) -> list[Path]:
    """Where a file of `WEIGHTS` may lie; what is fetched goes to the first."""
    file = _spec(name).file
    return [cache_folder("weights") / file, torch_checkpoints() / file]


def find_weights(name: str) -> Path:
    """A file of `WEIGHTS` on this machine, its SHA-256 checked.

    InputError names the file and the command that fetches it when it is missing, and the file when
    it is another one than the one that is pinned.
    """
    spec, candidates = _spec(name), places(name)
    for file in candidates:
        if file.is_file():
            check_sha256(file, spec.sha256)
            return file
    raise MissingError(
        f"{spec.file} ({spec.use}) is not on this machine.",
        f"With network: erase fetch --weights {name}; or copy it to {candidates[0].parent}.",
    )


def check_sha256(file: Path, sha256: str) -> None:
    """InputError unless a file has this SHA-256."""
    state = file.stat()
    if _digest(file, state.st_mtime_ns, state.st_size) != sha256:
        raise InputError(
            f"{file} is not the published file: its SHA-256 does not begin with {sha256[:8]}.",
            "Delete it and fetch it again: it may be cut short, or somebody else's.",
        )


@lru_cache(maxsize=32)
def _digest(file: Path, _modified: int, _size: int) -> str:
    return hash_file(file)


def load_weights(name: str) -> dict[str, Any]:
    """The tensors of a file of `WEIGHTS`, on the CPU, read without unpickling.

    InputError as for `find_weights`, or when the file holds anything but tensors by name.
    """
    import pickle

    import torch

    file = find_weights(name)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{file} cannot be read ({str(error).splitlines()[0]}).", "Fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no tensors by name.", "Fetch it again.")
    return content


def address(name: str) -> str:
    """The URL that the library itself downloads a file of `WEIGHTS` from.

    RunError when the installed library names another file than the one that is pinned.
    """
    spec = _spec(name)
    module, path = spec.address
    value: Any = importlib.import_module(module)
    for attribute in path.split("."):
        value = getattr(value, attribute)
    if str(value).rpartition("/")[2] != spec.file:
        raise RunError(
            f"The installed {module.partition('.')[0]} has other weights than {spec.file}.",
            f"Copy {spec.file} to {places(name)[0].parent} by hand.",
        )
    return str(value)


def fetch_weights(name: str, progress: Progress | None = None) -> None:
    """Download a file of `WEIGHTS` into the cache, and check it; RunError when that fails."""
    download(address(name), places(name)[0], _spec(name).sha256, progress=progress)


def find_clip(name: str) -> Path:
    """Folder of a CLIP model of `CLIP` on this machine; InputError as for `find_weights`."""
    if name not in CLIP:
        raise InputError(f"There is no CLIP model {name!r}.", f"Known: {', '.join(CLIP)}.")
    for revision in (CLIP_REVISIONS[name], None):
        folder = hub.local_snapshot(CLIP[name], revision)
        if folder and all((folder / file).is_file() for file in CLIP_FILES):
            return folder
    raise MissingError(
        f"The CLIP model {CLIP[name]} is not on this machine.",
        f"With network: erase fetch --weights clip-{name}; or give its folder as the CLIP model.",
    )


def fetch_clip(name: str) -> None:
    """Download a CLIP model of `CLIP` into the hub's cache; HubError when that fails."""
    hub.snapshot(CLIP[name], CLIP_REVISIONS[name], patterns=CLIP_PATTERNS)


def _spec(name: str) -> WeightFile:
    if name not in WEIGHTS:
        raise InputError(f"There are no weights {name!r}.", f"Known: {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]
