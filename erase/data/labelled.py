"""Labelled images in memory: a data set with its facts, and parts and smaller copies of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erase.errors import InputError
from erase.files import fingerprint

FOLDER_SIZE = 224  # pixels a side that a folder's images are trained at
CIFAR = "cifar"  # how the names of the data sets begin that are made smaller here


@dataclass(frozen=True)
class LabelledSet:
    """Images `[N, 3, H, W]`, uint8 in [0, 255], with labels `[N]`, int64 from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> LabelledSet:
        """The samples at these positions, `[M]`."""
        rows = indices.to(self.labels.device)
        return LabelledSet(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> LabelledSet:
        """A copy on the device."""
        return LabelledSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips. `pad`: pixels added on each side before the crop to `size`."""

    size: int
    pad: int = 0
    flip: bool = True


@dataclass(frozen=True)
class ClassificationData:
    """A data set with the facts that a model of it needs.

    `mean` and `std` are per channel, of pixels in [0, 1]; `recipe` names the entry of the
    methods' `DEFAULTS`.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledSet
    test: LabelledSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    recipe: str

    def sha256(self) -> str:
        """SHA-256 of all images and labels, to train on and to test with."""
        tensors = [t for part in (self.train, self.test) for t in (part.images, part.labels)]
        return fingerprint(
            [hashlib.sha256(t.cpu().contiguous().numpy().tobytes()).hexdigest() for t in tensors]
        )

    def to(self, device: torch.device) -> ClassificationData:
        """A copy on the device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def balanced(data: ClassificationData, count: int) -> ClassificationData:
    """The first `count` training images of each class, and a fifth as many test images."""

    def first(images: LabelledSet, count: int) -> LabelledSet:
        return images.subset((turns(images.labels) < count).nonzero().flatten())

    counts = torch.bincount(data.train.labels, minlength=len(data.classes))
    if count > int(counts.min()):
        raise InputError(
            f"{data.classes[int(counts.argmin())]!r} has {int(counts.min())} training images, not"
            f" {count}.",
            "Lower --images-per-class.",
        )
    return replace(data, train=first(data.train, count), test=first(data.test, max(count // 5, 1)))


def shrunk(data: ClassificationData, size: int) -> ClassificationData:
    """The images at `size` pixels a side, each new pixel the mean over its area of the old."""
    own = data.augmentation.size
    if size in (own, FOLDER_SIZE):  # configurations of earlier versions have 224 for any data
        return data
    smaller = data.name.startswith(CIFAR)
    if size > own or not smaller:
        raise InputError(
            f"--resolution is {size}, and the images of {data.name} have {own} pixels a side.",
            "Leave it out, or give a smaller number." if smaller else "Leave it out.",
        )
    edges = torch.arange(size + 1, dtype=torch.float64) * own / size
    old = torch.arange(own)
    overlap = torch.minimum(edges[1:, None], old + 1.0) - torch.maximum(edges[:-1, None], 1.0 * old)
    weights = (overlap.clamp(min=0) * size / own).float()

    def shrink(images: LabelledSet) -> LabelledSet:
        parts = [weights @ part.float() @ weights.T for part in images.images.split(5000)]
        return LabelledSet(torch.cat([p.round().to(torch.uint8) for p in parts]), images.labels)

    how = replace(data.augmentation, size=size, pad=round(data.augmentation.pad * size / own))
    return replace(data, train=shrink(data.train), test=shrink(data.test), augmentation=how)


def turns(labels: Tensor) -> Tensor:
    """How many images of the same class come before each."""
    counts = torch.zeros_like(labels)
    for label in labels.unique().tolist():
        rows = labels == label
        counts[rows] = torch.arange(int(rows.sum()))
    return counts
