"""The digit classifier that ships with mini-sd, and the real digits beside it."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from erase.data.digits import IMAGE_SIZE, load_digit_images
from erase.files import hash_files
from erase.judges.base import ClassifierJudge
from erase.judges.digit_classifier import DIGITS_CLASSIFIER, FEATURES, DigitClassifier
from erase.judges.images import batches, halving, to_bytes
from erase.scoring.context import Predictions, Reference
from erase.scoring.statistics import Floats

BATCH = 256


class DigitJudge(ClassifierJudge):
    """The classifier that ships with mini-sd; reference: all 1797 digits of scikit-learn."""

    name = "digits_classifier"
    description = f"digits_classifier, last hidden layer, {FEATURES} values"

    def __init__(self, classes: Sequence[str], folder: Path | None = None) -> None:
        self.classes = tuple(classes)
        self.folder = folder or DIGITS_CLASSIFIER
        self.model = DigitClassifier.load(self.folder)

    def fingerprint(self) -> str:
        """SHA-256 of the classifier's files."""
        return hash_files((f for f in self.folder.iterdir() if f.is_file()), self.folder)

    def predict(self, images: Sequence[Path]) -> Predictions:
        """Probabilities `[N, 10]` and features `[N, 64]` of images, scaled to 32 px if need be."""
        features, probabilities = self._judge(batches(images, _prepare, BATCH))
        return Predictions(self.name, self.classes, probabilities, features)

    @cached_property
    def _reference(self) -> Reference:
        digits = load_digit_images()
        features, _ = self._judge(torch.split(digits.images, BATCH))
        labels = tuple(self.classes[label] for label in digits.labels.tolist())
        description = f"all {len(labels)} digits of scikit-learn (training and held-out)"
        return Reference(f"{description}, of the classes compared", labels, features)

    def reference(self) -> Reference | None:
        """All real digits, those that the classifier and mini-sd were trained on among them."""
        return self._reference

    @torch.no_grad()
    def _judge(self, images: Iterable[torch.Tensor]) -> tuple[Floats, Floats]:
        features, logits = [torch.zeros(0, FEATURES)], [torch.zeros(0, len(self.classes))]
        for batch in images:
            features.append(halving(self.model.features, batch))
            logits.append(self.model.head(features[-1]))
        probabilities = torch.cat(logits).double().softmax(dim=1)
        return torch.cat(features).double().numpy(), probabilities.numpy()


def _prepare(image: Image.Image) -> torch.Tensor:
    """An image as `[3, 32, 32]` in [-1, 1]."""
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return to_bytes(image).float() / 127.5 - 1.0
