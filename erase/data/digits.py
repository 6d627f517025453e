"""scikit-learn's handwritten digits as 32 x 32 RGB images, split for training and evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from erase.data.prompts import ClassList, prompts_root, read_class_list
from erase.errors import InputError

CLASSES = 10
IMAGE_SIZE = 32  # pixels a side, upscaled from 8
SPLIT_SEED = 0
"""The same whatever seed a model trains with, so that held-out images stay held out."""
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class LabelledImages:
    """Images `[N, 3, 32, 32]` in [-1, 1], white on black, with labels `[N]`, integers 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DigitsSplit:
    """The training images and the held-out ones, which no shipped model has seen."""

    train: LabelledImages
    held_out: LabelledImages


def load_digit_images() -> LabelledImages:
    """Load all 1797 digits in the order of the data set, upscaled bicubically from 8 x 8.

    Returns:
        Images `[1797, 3, 32, 32]` in [-1, 1]; the three channels are equal.
    """
    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16.0
    large = F.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    images = large.clamp(0.0, 1.0).mul(2.0).sub(1.0).repeat(1, 3, 1, 1)
    return LabelledImages(images, torch.from_numpy(bunch.target).long())


def digit_captions() -> ClassList:
    """Read the project's captions of the digits: `prompts/digits.yaml`."""
    return read_class_list(prompts_root() / "digits.yaml")


def split_digits(seed: int = SPLIT_SEED, *, held_out_share: float = HELD_OUT_SHARE) -> DigitsSplit:
    """Split the digits into training and held-out images, each class in the same proportion.

    Args:
        seed: Seed of the split; the same seed gives the same images in the same order.
        held_out_share: Share of the images held out, between 0 and 1 (exclusive).

    Raises:
        InputError: When the share leaves one side without all ten classes.
    """
    digits = load_digit_images()
    held_out_count = round(held_out_share * len(digits))
    if not CLASSES <= held_out_count <= len(digits) - CLASSES:
        raise InputError(
            f"holding out a share of {held_out_share} leaves one side without every digit",
            "choose a share between 0.01 and 0.99",
        )
    train, held_out = train_test_split(
        torch.arange(len(digits)).numpy(),
        test_size=held_out_count,
        random_state=seed,
        stratify=digits.labels.numpy(),
    )
    return DigitsSplit(
        LabelledImages(digits.images[train], digits.labels[train]),
        LabelledImages(digits.images[held_out], digits.labels[held_out]),
    )


def jitter(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 7.0,
    shift: float = 1.0,
    scale: float = 0.06,
) -> torch.Tensor:
    """Rotate, move and resize each image a little, to imitate other handwriting.

    Args:
        images: `[B, 3, H, W]` in [-1, 1]; pixels from outside the image are black (-1).
        generator: CPU generator that draws the changes.
        degrees: Largest rotation either way.
        shift: Largest move either way, in pixels.
        scale: Largest relative change of size either way.
    """
    draws = torch.rand(5, len(images), generator=generator).mul(2.0).sub(1.0)
    angle = draws[0] * math.radians(degrees)
    widths, heights = 1.0 + scale * draws[1], 1.0 + scale * draws[2]
    pixel = 2.0 / images.shape[-1]  # grid coordinates span [-1, 1]
    rows = [
        torch.stack([angle.cos() * widths, -angle.sin() * heights, draws[3] * shift * pixel], 1),
        torch.stack([angle.sin() * widths, angle.cos() * heights, draws[4] * shift * pixel], 1),
    ]
    theta = torch.stack(rows, dim=1).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1.0, grid, mode="bilinear", align_corners=False) - 1.0
