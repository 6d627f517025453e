"""Weight files of judges and metrics: where they lie on this machine, checked by SHA-256."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WeightFile:
    """A weight file that others publish.

    `sha256` is the digest, or the first digits of it that are known.
    """

    file: str
    sha256: str
    use: str


WEIGHTS = {
    "inception": WeightFile(
        "weights-inception-2015-12-05-6726825d.pth", "6726825d", "Inception v3 of FID and KID"
    ),
    "resnet50": WeightFile("resnet50-11ad3fa6.pth", "11ad3fa6", "torchvision IMAGENET1K_V2"),
    "resnet18": WeightFile("resnet18-f37072fd.pth", "f37072fd", "torchvision IMAGENET1K_V1"),
    "resnet34": WeightFile("resnet34-b627a593.pth", "b627a593", "torchvision IMAGENET1K_V1"),
    "lpips-alex": WeightFile("alexnet-owt-7be5be79.pth", "7be5be79", "backbone of LPIPS"),
    "lpips-vgg": WeightFile("vgg16-397923af.pth", "397923af", "backbone of LPIPS"),
}
CLIP = {
    "vit-l-14": "openai/clip-vit-large-patch14",
    "vit-b-32": "openai/clip-vit-base-patch32",
}


def find_weights(name: str) -> Path:
    """A file of `WEIGHTS` on this machine, its SHA-256 checked.

    InputError names the file and the command that fetches it when it is missing or another one.
    """
    raise NotImplementedError


def load_weights(name: str) -> dict[str, Any]:
    """The tensors of `find_weights(name)`, read with `weights_only=True`."""
    raise NotImplementedError


def find_clip(name: str) -> Path:
    """Folder of a CLIP model of `CLIP` on this machine; InputError as for `find_weights`."""
    raise NotImplementedError
