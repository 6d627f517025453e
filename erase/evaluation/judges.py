"""The classifiers that suites name: their verdicts on image files, and the real images beside them.

A judge is loaded by name, so that suites and metrics stay free of models.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from erase.core.scoring import Reference, Verdicts
from erase.data.digits import IMAGE_SIZE, load_digit_images
from erase.errors import InputError
from erase.models.digit_classifier import DIGITS_CLASSIFIER, DigitClassifier
from erase.record import hash_files

BATCH = 256


class Judge(Protocol):
    """A classifier with the real images that distances refer to."""

    name: str
    """In letters, digits and underscores."""

    def fingerprint(self) -> str:
        """SHA-256 of its weights."""

    def verdicts(self, images: Sequence[Path]) -> Verdicts:
        """Probabilities and features of image files, in their order."""

    def reference(self) -> Reference:
        """Features of real images of every class."""


class DigitJudge:
    """The classifier that ships with mini-sd; reference: all 1797 digits of scikit-learn."""

    name = "digits_classifier"

    def __init__(self, classes: Sequence[str], folder: Path | None = None) -> None:
        self.classes = tuple(classes)
        self.folder = folder or DIGITS_CLASSIFIER
        self.model = DigitClassifier.load(self.folder)

    def fingerprint(self) -> str:
        """SHA-256 of the classifier's files."""
        return hash_files((f for f in self.folder.iterdir() if f.is_file()), self.folder)

    def verdicts(self, images: Sequence[Path]) -> Verdicts:
        """Probabilities `[N, 10]` and features `[N, 64]` of images, scaled to 32 px if need be."""
        batches = [
            torch.stack([_read(file) for file in images[start : start + BATCH]])
            for start in range(0, len(images), BATCH)
        ]
        features, probabilities = self._judge(batches)
        return Verdicts(self.name, self.classes, probabilities, features)

    @cached_property
    def _reference(self) -> Reference:
        digits = load_digit_images()
        features, _ = self._judge(torch.split(digits.images, BATCH))
        labels = tuple(self.classes[label] for label in digits.labels.tolist())
        description = f"all {len(labels)} digits of scikit-learn (training and held-out)"
        return Reference(f"{description}, of the classes compared", labels, features)

    def reference(self) -> Reference:
        """All real digits, those that the classifier and mini-sd were trained on among them."""
        return self._reference

    @torch.no_grad()
    def _judge(
        self, batches: Sequence[torch.Tensor]
    ) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], ...]:
        if not batches:
            return np.zeros((0, 64)), np.zeros((0, len(self.classes)))
        features = torch.cat([self.model.features(batch) for batch in batches])
        logits = self.model.head(features)
        return features.double().numpy(), logits.double().softmax(dim=1).numpy()


def _read(file: Path) -> torch.Tensor:
    """An image file as `[3, 32, 32]` in [-1, 1]."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return pixels / 127.5 - 1.0


JUDGES: dict[str, Callable[[Sequence[str]], Judge]] = {"digits-classifier": DigitJudge}


@lru_cache(maxsize=4)
def load_judge(name: str, classes: tuple[str, ...]) -> Judge:
    """The judge a suite names, for its classes; InputError for an unknown name."""
    if name not in JUDGES:
        raise InputError(f"There is no classifier {name!r}.", f"Known: {', '.join(JUDGES)}.")
    return JUDGES[name](classes)
