"""The judges that ship with mini-emoji: of the object, of the style, and of the background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from erase.data.emoji import KINDS, Vocabulary, read_vocabulary
from erase.errors import InputError
from erase.files import fingerprint, hash_files
from erase.judges.base import ClassifierJudge
from erase.judges.icon_classifier import ICON_CLASSIFIERS, IconClassifier, IconReference
from erase.judges.images import batches, halving, to_bytes
from erase.scoring.context import Predictions, Reference
from erase.scoring.names import plain
from erase.scoring.samples import things

BATCH = 256
EMOJI_JUDGES = {"emoji-objects": "object", "emoji-styles": "style", "emoji-colours": "colour"}
"""Names of the judges, with the kind of thing that each recognises."""
BORDER = 1 / 24  # of the side: width of the border whose median colour is the background's
SPREAD = 16.0  # levels of 255 by which a colour may be off before its probability falls


class IconJudge(ClassifierJudge):
    """A classifier of mini-emoji's objects or styles; reference: the real icons.

    Args:
        thing: what it recognises: "object" or "style".
        classes: the names that targets may take; the classifier knows every one of them.
        folder: of another classifier; default: the one that ships.
    """

    def __init__(self, thing: str, classes: Sequence[str], folder: Path | None = None) -> None:
        self.folder = folder or ICON_CLASSIFIERS[thing]
        self.model = IconClassifier.load(self.folder)
        self.name = f"emoji_{self.model.thing}s"
        self.classes = self.model.classes
        known = {plain(name) for name in self.classes}
        if lacking := [name for name in classes if plain(name) not in known]:
            raise InputError(
                f"The classifier {self.name} has no class {lacking[0]!r}.",
                f"It has {len(known)}: {', '.join(self.classes[:12])}, ….",
            )
        self.description = f"{self.name}, last hidden layer, {self.model.num_features} values"

    def fingerprint(self) -> str:
        """SHA-256 of the classifier's files."""
        return hash_files((f for f in self.folder.iterdir() if f.is_file()), self.folder)

    @torch.no_grad()
    def predict(self, images: Sequence[Path]) -> Predictions:
        """Probabilities and features `[N, 64]` of images, scaled to the classifier's size."""
        features = [torch.zeros(0, self.model.num_features)]
        logits = [torch.zeros(0, len(self.classes))]
        for batch in batches(images, self._prepare, BATCH):
            features.append(halving(self.model.features, batch))
            logits.append(self.model.head(features[-1]))
        probabilities = torch.cat(logits).double().softmax(dim=1).numpy()
        return Predictions(
            self.name, self.classes, probabilities, torch.cat(features).double().numpy()
        )

    @cached_property
    def _reference(self) -> Reference:
        real = IconReference.load(self.folder)
        words = read_vocabulary()
        names = {kind: words.names(kind) for kind in KINDS} | {self.model.thing: self.classes}
        shown = [{kind: names[kind][n] for kind, n in row.items()} for row in real.labels()]
        return Reference(
            f"{len(shown)} pictures of the real icons, which mini-emoji was trained on",
            tuple(asks[self.model.thing] for asks in shown),
            real.features.double().numpy(),
            tuple(frozenset(things("", asks)) for asks in shown),
        )

    def reference(self) -> Reference | None:
        """The real icons on every background, which mini-emoji was trained on too."""
        return self._reference

    def _prepare(self, image: Image.Image) -> Tensor:
        size = (self.model.size, self.model.size)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return to_bytes(image).float() / 127.5 - 1.0


class ColourJudge(ClassifierJudge):
    """Tells the background's colour by the border's pixels; no network.

    The probability of a colour falls with the distance of its levels from the border's median.
    """

    name = "emoji_colours"
    description = "median red, green and blue of the border, 3 values"

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary or read_vocabulary()
        self.classes = self.vocabulary.names("colour")

    def fingerprint(self) -> str:
        """SHA-256 of the colours and of what the judge does."""
        levels = [list(colour.levels) for colour in self.vocabulary.colours]
        return fingerprint([self.name, list(self.classes), levels, BORDER, SPREAD])

    def predict(self, images: Sequence[Path]) -> Predictions:
        """Probabilities `[N, colours]`, and the background's levels `[N, 3]` as features."""
        levels = torch.zeros(0, 3)
        for batch in batches(images, to_bytes, BATCH):
            levels = torch.cat([levels, border_levels(batch)])
        probabilities = colour_probabilities(levels, self.vocabulary)
        return Predictions(
            self.name, self.classes, probabilities.double().numpy(), levels.double().numpy()
        )


def border_levels(images: Tensor) -> Tensor:
    """The median colour `[B, 3]` of the border of images `[B, 3, H, W]`, in their own units."""
    height, width = images.shape[-2:]
    edge = max(1, round(BORDER * min(height, width)))
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    inside[edge : height - edge, edge : width - edge] = True
    return images[:, :, ~inside].float().median(dim=-1).values


def colour_probabilities(levels: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Probabilities `[B, colours]` of background levels `[B, 3]`, each from 0 to 255."""
    known = torch.tensor([c.levels for c in vocabulary.colours], dtype=torch.float32)
    distance = torch.cdist(levels.float(), known.to(levels.device))
    return (-0.5 * (distance / SPREAD) ** 2).softmax(dim=1)


def emoji_judge(name: str, classes: Sequence[str]) -> ClassifierJudge:
    """The judge of that name (see `EMOJI_JUDGES`), or the icon classifier of a folder."""
    if name == "emoji-colours":
        return ColourJudge()
    if name in EMOJI_JUDGES:
        return IconJudge(EMOJI_JUDGES[name], classes)
    return IconJudge("object", classes, Path(name))
