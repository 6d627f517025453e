"""A small convolutional classifier of small pictures, as the embedded models' judges use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from erase.errors import InputError
from erase.files import atomic_directory, read_json
from erase.models.weights import check_finite

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
REFERENCE = "reference.safetensors"
SMALLEST = 4  # side of the last feature map, in pixels


class SmallClassifier(nn.Module):
    """A network over images `[B, 3, size, size]` in [-1, 1]; a subclass says of what.

    Args:
        width: channels of the first block; the later ones have twice as many.
        classes: number of classes.
        size: pixels a side, 4 times a power of two.
        features: values that the last layer decides on.
    """

    kind: ClassVar[str]
    """What it is, for messages."""

    def __init__(self, width: int, classes: int, size: int, features: int) -> None:
        super().__init__()
        self.width, self.size, self.num_features = width, size, features
        blocks, side = [_block(3, width)], size // 2
        while side > SMALLEST:
            blocks.append(_block(width if len(blocks) == 1 else 2 * width, 2 * width))
            side //= 2
        self.trunk = nn.Sequential(
            *blocks,
            nn.Flatten(),
            nn.Linear(2 * width * side * side, features),
            nn.SiLU(),
        )
        self.head = nn.Linear(features, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features `[B, features]` that the last layer decides on."""
        return cast(torch.Tensor, self.trunk(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, classes]`."""
        return cast(torch.Tensor, self.head(self.features(images)))

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return the label `[N]` recognised in each image."""
        return torch.cat([self(part).argmax(1) for part in torch.split(images, 256)])

    def save(
        self, folder: Path, reference: Mapping[str, torch.Tensor] | None = None, **facts: float
    ) -> None:
        """Write, atomically, a folder of fp16 weights and a description that includes `facts`.

        `reference` is what it sees in real images, stored beside the weights.
        """
        check_finite(self.state_dict(), WEIGHTS, torch.float16)
        weights = {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        with atomic_directory(folder) as aside:
            save_file(weights, aside / WEIGHTS)
            if reference:
                seen = {name: tensor.cpu().contiguous() for name, tensor in reference.items()}
                save_file(seen, aside / REFERENCE)
            for file in aside.iterdir():
                file.chmod(0o644)  # safetensors writes for the owner only
            text = json.dumps({**self.description(), **facts}, indent=2) + "\n"
            (aside / DESCRIPTION).write_text(text, encoding="utf-8")

    def description(self) -> dict[str, object]:
        """What the description file says of the network."""
        return {
            "class": type(self).__name__,
            "width": self.width,
            "features": self.num_features,
        }

    @classmethod
    def from_description(cls, description: dict[str, object]) -> Self:
        """An untrained network as a description file says."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Load a saved classifier in float32 and evaluation mode.

        Raises:
            InputError: When the folder holds no such classifier.
        """
        missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{folder} is no {cls.kind}: it lacks {' and '.join(missing)}",
                "give a folder that holds model.safetensors and model.json",
            )
        description = read_json(folder / DESCRIPTION)
        if description.get("class") != cls.__name__:
            raise InputError(f"{folder} holds another model", f"give a {cls.kind}'s folder")
        model = cls.from_description(description)
        model.load_state_dict(load_file(folder / WEIGHTS))  # casts to float32
        return model.to(device).eval()

    @classmethod
    def is_here(cls, folder: Path) -> bool:
        """Whether a folder holds such a classifier, by its description."""
        file = folder / DESCRIPTION
        content = read_json(file) if file.is_file() else None
        return isinstance(content, dict) and content.get("class") == cls.__name__


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolve, normalise and halve the resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
        nn.AvgPool2d(2),
    )
