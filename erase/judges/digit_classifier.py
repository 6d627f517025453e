"""The classifier that tells which digit a 32 x 32 image shows: the judge of `mini-sd`'s renders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

import torch
import torch.nn.functional as F
from msgspec import Meta
from tqdm import tqdm

from erase.artifacts.packaged import ASSETS
from erase.core.rng import batch_indices, derive_seed, generator
from erase.data.digits import CLASSES, IMAGE_SIZE, LabelledImages, jitter, split_digits
from erase.errors import InputError
from erase.judges.small_classifier import DESCRIPTION, SmallClassifier
from erase.reading import fitted

DIGITS_CLASSIFIER = ASSETS / "digits-classifier"  # the one that ships
FEATURES = 64
EPOCHS = 30
BATCH = 64
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.05


class Size(TypedDict):
    """What the description says of the network."""

    width: Annotated[int, Meta(ge=1, le=4096)]


class DigitClassifier(SmallClassifier):
    """A small convolutional network over images `[B, 3, 32, 32]` in [-1, 1]; ten logits."""

    kind = "digit classifier"

    def __init__(self, width: int = 24) -> None:
        super().__init__(width, CLASSES, IMAGE_SIZE, FEATURES)

    @classmethod
    def from_description(cls, description: dict[str, object]) -> DigitClassifier:
        """An untrained network as a description file says."""
        return cls(fitted(description, Size, DESCRIPTION)["width"])


def train_classifier(
    output: Path,
    *,
    seed: int = 0,
    reconstructions: torch.Tensor | None = None,
    epochs: int = EPOCHS,
    device: str = "cpu",
    quiet: bool = False,
) -> float:
    """Train the classifier on the training images and write it to a folder.

    Args:
        output: Folder to write (replaced if it exists).
        seed: Seed of the initial weights, batches and augmentation.
        reconstructions: The training images after an autoencoder's round trip, `[N, 3, 32, 32]`
            in [-1, 1]; half of each batch is then drawn from them, so that renders are no foreign
            ground.
        epochs: Passes over the training images.
        device: "cpu" or "cuda".
        quiet: Show no progress bar.

    Returns:
        Accuracy on the held-out real digits, between 0 and 1, of the weights as stored.
    """
    split = split_digits()
    sources = torch.stack([split.train.images, split.train.images])
    if reconstructions is not None:
        sources[1] = reconstructions.cpu()
    labels = split.train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("digits-classifier", seed))
        model = DigitClassifier().to(device)
    steps = epochs * len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, max(2, steps))
    model.train()
    for step in tqdm(range(steps), desc="digit classifier", disable=quiet, unit="step"):
        draws = generator("digits-classifier", seed, step)
        chosen = batch_indices(len(labels), BATCH, step, "digits-classifier", seed)
        source = torch.randint(2, (BATCH,), generator=draws)
        images = _disturb(sources[source, chosen], draws).to(device)
        loss = F.cross_entropy(
            model(images), labels[chosen].to(device), label_smoothing=LABEL_SMOOTHING
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().to("cpu").half().float()  # judge what will be stored
    accuracy = held_out_accuracy(model, split.held_out)
    model.save(output, seed=seed, epochs=epochs, held_out_accuracy=round(accuracy, 5))
    return accuracy


def held_out_accuracy(model: DigitClassifier, held_out: LabelledImages) -> float:
    """Return the share of images, between 0 and 1, whose digit the classifier recognises."""
    if not len(held_out):
        raise InputError("there are no held-out images", "hold out a larger share")
    return float((model.predict(held_out.images) == held_out.labels).float().mean())


def _disturb(images: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Jitter images strongly, blur half of them, and add a little noise of varying strength."""
    images = jitter(images, draws, degrees=12.0, shift=2.5, scale=0.12)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sharp = torch.rand(len(images), 1, 1, 1, generator=draws) < 0.5
    strength = 0.15 * torch.rand(len(images), 1, 1, 1, generator=draws)
    noise = torch.randn(images.shape, generator=draws)
    return (torch.where(sharp, images, blurred) + strength * noise).clamp(-1.0, 1.0)
