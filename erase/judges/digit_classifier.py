"""The classifier that tells which digit a 32 x 32 image shows: the judge of `mini-sd`'s renders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypedDict, cast

import torch
import torch.nn.functional as F
from msgspec import Meta
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from erase.artifacts.packaged import ASSETS
from erase.core.rng import batch_indices, derive_seed, generator
from erase.data.digits import CLASSES, LabelledImages, jitter, split_digits
from erase.errors import InputError
from erase.files import atomic_directory, read_json
from erase.models.weights import check_finite
from erase.reading import fitted

DIGITS_CLASSIFIER = ASSETS / "digits-classifier"  # the one that ships
FEATURES = 64
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
EPOCHS = 30
BATCH = 64
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.05


class Size(TypedDict):
    """What the description says of the network."""

    width: Annotated[int, Meta(ge=1, le=4096)]


class DigitClassifier(nn.Module):
    """A small convolutional network over images `[B, 3, 32, 32]` in [-1, 1]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.width = width
        self.num_features = FEATURES
        self.trunk = nn.Sequential(
            _block(3, width),
            _block(width, 2 * width),
            _block(2 * width, 2 * width),
            nn.Flatten(),
            nn.Linear(2 * width * 16, FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features `[B, 64]` that the last layer decides on."""
        return cast(torch.Tensor, self.trunk(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, 10]`."""
        return cast(torch.Tensor, self.head(self.features(images)))

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return the digit `[N]` recognised in each image."""
        return torch.cat([self(part).argmax(1) for part in torch.split(images, 256)])

    def save(self, folder: Path, **facts: float | str) -> None:
        """Write, atomically, a folder of fp16 weights and a description that includes `facts`."""
        check_finite(self.state_dict(), WEIGHTS, torch.float16)
        weights = {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        description = {"class": "DigitClassifier", "width": self.width, "features": FEATURES}
        with atomic_directory(folder) as aside:
            save_file(weights, aside / WEIGHTS)
            (aside / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only
            text = json.dumps({**description, **facts}, indent=2) + "\n"
            (aside / DESCRIPTION).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> DigitClassifier:
        """Load a saved classifier in float32 and evaluation mode.

        Raises:
            InputError: When the folder holds no digit classifier.
        """
        missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{folder} is no digit classifier: it lacks {' and '.join(missing)}",
                "give a folder that holds model.safetensors and model.json",
            )
        description = read_json(folder / DESCRIPTION)
        if description.get("class") != cls.__name__:
            raise InputError(f"{folder} holds another model", "give a digit classifier's folder")
        model = cls(fitted(description, Size, str(folder / DESCRIPTION))["width"])
        model.load_state_dict(load_file(folder / WEIGHTS))  # casts to float32
        return model.to(device).eval()


def is_digit_classifier(folder: Path) -> bool:
    """Whether a folder holds a digit classifier, by its description."""
    file = folder / DESCRIPTION
    content = read_json(file) if file.is_file() else None
    return isinstance(content, dict) and content.get("class") == DigitClassifier.__name__


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


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolve, normalise and halve the resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
        nn.AvgPool2d(2),
    )


def _disturb(images: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Jitter images strongly, blur half of them, and add a little noise of varying strength."""
    images = jitter(images, draws, degrees=12.0, shift=2.5, scale=0.12)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sharp = torch.rand(len(images), 1, 1, 1, generator=draws) < 0.5
    strength = 0.15 * torch.rand(len(images), 1, 1, 1, generator=draws)
    noise = torch.randn(images.shape, generator=draws)
    return (torch.where(sharp, images, blurred) + strength * noise).clamp(-1.0, 1.0)
