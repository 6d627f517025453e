"""Settings of `erase train ddpm`, with their defaults by data set; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from erase.config.base import DATASETS, FORMER_SIDE, LoopConfig
from erase.config.fields import option
from erase.config.limits import PIXELS, RANK

SOURCES: dict[str, Any] = {
    "resolution": 32,
    # The CIFAR-10 DDPM of SalUn and SA, after Ho et al. 2020, appendix B.
    "channels": 128,
    "multipliers": "1,2,2,2",
    "blocks": 2,
    "attention": 16,
    "dropout": 0.1,
    "flip": True,
    "max_train_steps": 800_000,
    "train_batch_size": 128,
    "learning_rate": 2e-4,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.9999,
}
DIGITS: dict[str, Any] = {
    # The digits as scikit-learn has them, 0.7 M parameters: made to be trained on a CPU.
    "resolution": 8,
    "channels": 32,
    "multipliers": "1,2",
    "blocks": 1,
    "attention": 4,
    "dropout": 0.0,
    "flip": False,  # a mirrored digit is another sign
    "max_train_steps": 2000,
    "train_batch_size": 64,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 100,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.995,
}


@dataclass(frozen=True)
class DDPMConfig(LoopConfig):
    """`erase train ddpm`: a class-conditional denoiser of pixels."""

    recipe_help: ClassVar[Mapping[str, str]] = {
        name: f"recipe: {value} (digits: {DIGITS[name]})"
        for name, value in (SOURCES | {"flip": "yes"}).items()
    }

    max_train_steps: int | None = option(None, "Optimizer steps.", least=1)
    dataset: str = option("cifar10", "Labelled images; folder: one folder a class.", DATASETS)
    data_dir: str | None = option(None, "Folder that holds the data; digits need none.", path=True)
    follow_links: bool | None = option(None, "Follow links that lead out of --data-dir.")
    classes: str | None = option(None, "Only these classes, comma-separated; default: all.")
    without: str | None = option(
        None, "Classes to leave out, comma-separated: the Retrain reference of forgetting them."
    )
    resolution: int | None = option(
        None,
        "Pixels a side: those of the data, or a divisor of them; of a folder's images, any.",
        least=4,
        most=PIXELS,
        former=FORMER_SIDE,
    )
    limit: int | None = option(None, "Only N training images, to try things out.", least=1)
    channels: int | None = option(None, "Channels of the UNet's first level.", least=1, most=RANK)
    multipliers: str | None = option(None, "Channels of each level, as multiples of the first's.")
    blocks: int | None = option(None, "Residual blocks a level.", least=1, most=64)
    attention: int | None = option(
        None, "Pixels a side of the level that attends to itself.", least=0, most=PIXELS
    )
    dropout: float | None = option(None, "Dropout in the residual blocks.", least=0, below=1)
    label_dropout: float = option(
        0.1, "Share of labels replaced by the null class.", least=0, below=1
    )
    flip: bool | None = option(None, "Mirror every other image.")
