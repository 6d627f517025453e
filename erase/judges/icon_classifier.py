"""The classifiers that tell which object, and which style, a picture of mini-emoji shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from erase.artifacts.packaged import ASSETS
from erase.errors import InputError
from erase.judges.small_classifier import REFERENCE, SmallClassifier

ICON_CLASSIFIERS = {"object": ASSETS / "emoji-objects", "style": ASSETS / "emoji-styles"}
"""Those that ship, by the kind of thing that they recognise."""
WIDTH, FEATURES = 40, 64


class IconClassifier(SmallClassifier):
    """A small convolutional network over images `[B, 3, size, size]` in [-1, 1].

    Args:
        thing: what it recognises: "object" or "style".
        classes: the names of the classes, in label order.
        size: pixels a side.
        width: channels of the first block.
    """

    kind = "icon classifier"

    def __init__(self, thing: str, classes: tuple[str, ...], size: int, width: int = WIDTH) -> None:
        super().__init__(width, len(classes), size, FEATURES)
        self.thing, self.classes = thing, classes

    def description(self) -> dict[str, object]:
        """What the description file says of the network."""
        own = {"thing": self.thing, "size": self.size, "classes": list(self.classes)}
        return super().description() | own

    @classmethod
    def from_description(cls, description: dict[str, object]) -> IconClassifier:
        """An untrained network as a description file says."""
        thing, classes, size = (description.get(key) for key in ("thing", "classes", "size"))
        if thing not in ICON_CLASSIFIERS or not isinstance(classes, list):
            raise InputError("This icon classifier does not say what it recognises.")
        names = tuple(str(name) for name in classes)
        return cls(str(thing), names, int(str(size)), int(str(description["width"])))


@dataclass(frozen=True)
class IconReference:
    """What a classifier sees in the real icons: features `[N, 64]` and their labels `[N]`."""

    features: Tensor
    objects: Tensor
    styles: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it, the features in fp16."""
        return {"features": self.features.half(), "objects": self.objects, "styles": self.styles}

    @classmethod
    def load(cls, folder: Path) -> IconReference:
        """Read it from the folder of its classifier; InputError when it is not there."""
        file = folder / REFERENCE
        if not file.is_file():
            raise InputError(f"{file} is missing.", "Give a classifier of erase train mini-emoji.")
        tensors = load_file(file)
        return cls(tensors["features"].float(), tensors["objects"], tensors["styles"])


@torch.no_grad()
def accuracy(model: IconClassifier, images: Tensor, labels: Tensor) -> float:
    """The share of images, between 0 and 1, whose label the classifier recognises."""
    return float((model.predict(images) == labels).double().mean())
