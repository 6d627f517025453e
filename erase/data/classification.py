"""Labelled images for classifiers: digits, CIFAR in its official binary layout, ImageFolder trees.

Images are uint8 tensors `[N, 3, H, W]` on the device; the model normalises pixels in [0, 1]. The
validation split depends on its seed alone. Its indices are saved with every model, so that a forget
set never holds samples that the model was not trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from erase.artifacts.cache import cache_folder
from erase.artifacts.datasets import ARCHIVES, fetch_dataset
from erase.artifacts.download import UnreachableError
from erase.config.base import DATASETS
from erase.core.rng import generator
from erase.data.classes import left_out, list_classes
from erase.data.digits import split_digits
from erase.data.labelled import (
    FOLDER_SIZE,
    Augmentation,
    ClassificationData,
    LabelledSet,
    balanced,
    shrunk,
    turns,
)
from erase.data.pictures import PictureFolder, read_picture
from erase.errors import InputError
from erase.reading import read_bytes, read_text
from erase.runs.processes import Distributed

__all__ = ["Augmentation", "ClassificationData", "LabelledSet", "load_dataset"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST_SHARE = 0.2  # of the images, if a folder has no test images of its own


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    images_per_class: int | None = None,
    crop_padding: int | None = None,
    follow_links: bool | None = False,
) -> ClassificationData:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`.
        data_dir: folder that holds the data (for CIFAR: or its parent); digits need none.
        image_size: pixels a side to train at; None is 224 of a `folder`, which is stored 8/7
            larger for the crops, and the data's own size of the others. CIFAR's images are made
            smaller by averaging over areas.
        limit: keep only N training images, and a fifth as many test images, for quick trials; of a
            `folder` as many of each class as the numbers allow, of the others, which come in random
            order, the first.
        images_per_class: keep only the first N training images of each class, and the first N / 5
            test images (at least one).
        crop_padding: pixels added on each side before a random crop; None is the data's own.
        follow_links: whether links may lead out of a `folder`.

    Raises:
        InputError: unknown name, missing or broken files, fewer images than asked for, or a size
            that the data cannot have.
    """
    if name == "digits":
        data = _digits()
    elif name in CIFAR:
        data = _cifar(name, data_dir)
    elif name == "folder":
        data = _folder(data_dir, image_size or FOLDER_SIZE, bool(follow_links))
    else:
        raise InputError(f"There is no data set {name!r}.", f"Known: {', '.join(DATASETS)}.")
    if images_per_class is not None:
        data = balanced(data, images_per_class)
    if limit is not None:
        data = _limited(data, limit)
    if image_size is not None and name != "folder":
        data = shrunk(data, image_size)
    if crop_padding is None:
        return data
    return replace(data, augmentation=replace(data.augmentation, pad=crop_padding))


def _limited(data: ClassificationData, limit: int) -> ClassificationData:
    name = data.name
    if limit < len(data.classes):
        raise InputError(
            f"{limit} images cannot hold {len(data.classes)} classes.", "Raise --limit."
        )
    sizes = (limit, max(limit // 5, len(data.classes) if name == "folder" else 1))
    train, test = (
        images.subset(turns(images.labels).argsort(stable=True)[:size].sort().values)
        if name == "folder"
        else images.subset(torch.arange(min(size, len(images))))
        for images, size in zip((data.train, data.test), sizes, strict=True)
    )
    if lacking := sorted(set(range(len(data.classes))) - set(train.labels.tolist())):
        raise InputError(
            f"The first {limit} images hold none of {data.classes[lacking[0]]!r}.", "Raise --limit."
        )
    return replace(data, train=train, test=test)


def validation_indices(labels: Tensor, share: float, seed: int) -> Tensor:
    """Indices `[M]` held out from training, each class in the same proportion, sorted.

    Args:
        labels: of the training set, `[N]`.
        share: of each class to hold out, in [0, 1).
        seed: of the split.
    """
    if not 0 <= share < 1:
        raise InputError(f"--validation-share is {share}.", "Give a number from 0 to below 1.")
    held_out = []
    for label in labels.cpu().unique().tolist():
        rows = (labels.cpu() == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator(seed, "validation", label))
        held_out.append(rows[order[: round(share * len(rows))]])
    return torch.cat(held_out).sort().values


def augment(images: Tensor, how: Augmentation, source: torch.Generator) -> Tensor:
    """Crop and flip each image at random.

    Args:
        images: `[B, 3, H, W]`, floats.
        how: padding is with zeros (black), as in the field.
        source: CPU generator.

    Returns:
        `[B, 3, size, size]`.
    """
    batch, height = len(images), images.shape[-1] + 2 * how.pad
    room = height - how.size
    draws = torch.rand(3, batch, generator=source).to(images.device)
    if room > 0:
        padded = F.pad(images, (how.pad,) * 4)
        offset = (draws[:2] * (room + 1)).long().clamp(max=room)
        span = torch.arange(how.size, device=images.device)
        rows = (offset[0][:, None] + span)[:, None, :, None]
        columns = (offset[1][:, None] + span)[:, None, None, :]
        number = torch.arange(batch, device=images.device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        images = padded[number, channel, rows, columns]
    if how.flip:
        images = torch.where((draws[2] < 0.5)[:, None, None, None], images.flip(-1), images)
    return images


def center(images: Tensor, how: Augmentation) -> Tensor:
    """Centre crop `[B, 3, size, size]` of images that are stored larger."""
    start = (images.shape[-1] - how.size) // 2
    return images[..., start : start + how.size, start : start + how.size]


def _digits() -> ClassificationData:
    # The digits have 8 x 8 pixels and come upscaled to 32; 16 lose nothing and cost a quarter.
    def shrink(images: Tensor) -> Tensor:
        pixels = F.avg_pool2d((images + 1) / 2, 2)
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    split = split_digits()
    return ClassificationData(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=LabelledSet(shrink(split.train.images), split.train.labels),
        test=LabelledSet(shrink(split.held_out.images), split.held_out.labels),
        mean=(0.3,) * 3,
        std=(0.35,) * 3,
        augmentation=Augmentation(16, flip=False),  # a mirrored digit is another sign
        recipe="digits",
    )


@dataclass(frozen=True)
class Cifar:
    """How a CIFAR archive's binary files are read; the archive itself is in `ARCHIVES`."""

    train: tuple[str, ...]
    """Files of the training images."""
    test: tuple[str, ...]
    label_bytes: int
    """Bytes before an image; the last of them is its label."""
    names: str
    """File of the classes' names."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR = {
    "cifar10": Cifar(
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        1,
        "batches.meta.txt",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Cifar(
        ("train.bin",),
        ("test.bin",),
        2,
        "fine_label_names.txt",
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
}


LARGEST = 256 << 20
"""Most bytes of a file of CIFAR; the largest has 154 MB."""


def _cifar(name: str, data_dir: Path | None) -> ClassificationData:
    spec, archive = CIFAR[name], ARCHIVES[name]
    root = data_dir or cache_folder("datasets")
    folder = next(
        (f for f in (root, root / archive.folder) if (f / spec.test[0]).is_file()), None
    ) or _fetch_cifar(name, root)
    names_file = folder / spec.names
    if not names_file.is_file():
        raise InputError(f"{names_file} is missing.", "Unpack the official archive again.")
    classes = tuple(read_text(names_file).split())
    sets = []
    for files in (spec.train, spec.test):
        rows = np.concatenate(
            [_read_bin(folder / file, archive.files[file], spec) for file in files]
        )
        labels = torch.from_numpy(rows[:, spec.label_bytes - 1].astype(np.int64))
        pixels = torch.from_numpy(rows[:, spec.label_bytes :].copy()).view(-1, 3, 32, 32)
        sets.append(LabelledSet(pixels, labels))
    return ClassificationData(
        name, classes, sets[0], sets[1], spec.mean, spec.std, Augmentation(32, pad=4), name
    )


def _read_bin(path: Path, md5: str, spec: Cifar) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not path.is_file():
        raise InputError(f"{path} is missing.", "Unpack the official archive again.")
    content = read_bytes(path, LARGEST)
    width = spec.label_bytes + 3072
    intact = hashlib.md5(content, usedforsecurity=False).hexdigest() == md5 if md5 else True
    if not intact or not content or len(content) % width:
        raise InputError(f"{path} is not the official file.", "Download it again.")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, width)


def _fetch_cifar(name: str, root: Path) -> Path:
    """Download and unpack the archive; InputError when its server cannot be reached."""
    try:
        return fetch_dataset(name, root)
    except UnreachableError as error:
        archive = ARCHIVES[name]
        raise InputError(
            f"{archive.folder} is not in {root}, and {archive.url} cannot be reached"
            f" ({error.message.removesuffix('.')}).",
            "Give --data-dir with the unpacked official binary version.",
        ) from error


def _folder(data_dir: Path | None, size: int, follow_links: bool) -> ClassificationData:
    remedy = "Give --data-dir with one folder of images a class."
    if data_dir is None:
        raise InputError("--data-dir is missing.", remedy)
    if not data_dir.is_dir():
        raise InputError(f"There is no folder {data_dir}.", remedy)
    train_dir = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    test_dir = next((data_dir / n for n in ("test", "val") if (data_dir / n).is_dir()), None)
    folders = list_classes(train_dir, root=data_dir, follow_links=follow_links)
    classes = tuple(listing.folder.name for listing in folders)
    notes = left_out(train_dir, folders)
    stored = round(size * 8 / 7)
    train = _read_images(folders, classes, stored)
    if test_dir is not None and train_dir != data_dir:
        tests = list_classes(test_dir, root=data_dir, follow_links=follow_links)
        if {listing.folder.name for listing in tests} - set(classes):
            raise InputError(
                f"{test_dir} has classes that {train_dir} has not.", "Make them agree."
            )
        notes += left_out(test_dir, tests)
        test = _read_images(tests, classes, stored)
    else:
        held_out = validation_indices(train.labels, TEST_SHARE, 0)
        if not len(held_out):
            raise InputError(f"{data_dir} has too few images a class.", "Give five or more.")
        trained = torch.ones(len(train), dtype=torch.bool)
        trained[held_out] = False
        train, test = train.subset(trained.nonzero().flatten()), train.subset(held_out)
    for note in notes if Distributed.launched().is_main else ():
        click.echo(f"Warning: {note}", err=True)
    return ClassificationData(
        "folder", classes, train, test, IMAGENET_MEAN, IMAGENET_STD, Augmentation(size), "celeba"
    )


def _read_images(
    folders: Sequence[PictureFolder], classes: tuple[str, ...], size: int
) -> LabelledSet:
    images, labels = [], []
    for listing in folders:
        images += [_read_image(path, size) for path in listing.pictures]
        labels += [classes.index(listing.folder.name)] * len(listing.pictures)
    return LabelledSet(torch.stack(images), torch.tensor(labels))


def _read_image(path: Path, size: int) -> Tensor:
    image = read_picture(path).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
