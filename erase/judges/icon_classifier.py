"""The classifiers that tell which object, and which style, a picture of mini-emoji shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import torch
from msgspec import Meta
from safetensors.torch import load_file
from torch import Tensor

from erase.artifacts.packaged import ASSETS
from erase.errors import InputError
from erase.judges.small_classifier import DESCRIPTION, REFERENCE, SmallClassifier
from erase.reading import fitted

ICON_CLASSIFIERS = {"object": ASSETS / "emoji-objects", "style": ASSETS / "emoji-styles"}
"""Those that ship, by the kind of thing that they recognise."""
WIDTH, FEATURES = 40, 64


class Shape(TypedDict):
    """What the description says of the network."""

    thing: Literal["object", "style"]
    classes: Annotated[list[str], Meta(min_length=1, max_length=10_000)]
    size: Annotated[int, Meta(ge=8, le=1024)]
    width: Annotated[int, Meta(ge=1, le=4096)]


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
        known = fitted(description, Shape, DESCRIPTION)
        return cls(known["thing"], tuple(known["classes"]), known["size"], known["width"])


@dataclass(frozen=True)
class IconReference:
    """What a classifier sees in the real icons: features `[N, 64]` and their labels `[N]`.

    Every icon is there on every background, one after the other.
    """

    features: Tensor
    objects: Tensor
    styles: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it, the features in fp16."""
        return {"features": self.features.half(), "objects": self.objects, "styles": self.styles}

    def labels(self) -> list[dict[str, int]]:
        """Of each picture, the labels of what it shows, by kind."""
        icons = list(zip(self.objects.tolist(), self.styles.tolist(), strict=True))
        colours = len(icons) // len(set(icons))
        return [
            {"object": thing, "style": style, "colour": place % colours}
            for place, (thing, style) in enumerate(icons)
        ]

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
