"""Class-conditional DDPM: labels as conditions, pixels as they are, the null class as the empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.data.captioned import CaptionedImages, load_image
from erase.data.classification import LabelledSet
from erase.errors import InputError
from erase.models.class_conditional import ClassConditionalPipeline
from erase.tasks.denoiser import DenoiserTask, EncodedImages, LatentCache


@dataclass
class ClassConditionalTask(DenoiserTask):
    """A class-conditional denoiser of pixels under unlearning, or in training.

    `flip` mirrors every other image, drawn from (seed, step): for training on photographs.
    """

    flip: bool = False

    family: ClassVar[str] = "class-conditional"

    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """The labels, ``[B]``."""
        return {"class_labels": self.conditions["labels"][condition]}

    def clean(self, images: EncodedImages, index: Tensor, source: torch.Generator) -> Tensor:
        """Pixels ``[B, C, H, W]`` in [-1, 1]."""
        pixels = images.mean[index]
        if not self.flip:
            return pixels
        coin = torch.rand(len(index), generator=source) < 0.5
        return torch.where(coin[:, None, None, None], pixels.flip(-1), pixels)


def encode(
    pipeline: ClassConditionalPipeline,
    sets: Mapping[str, CaptionedImages],
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,  # noqa: ARG001 - the same call for all families
) -> LatentCache:
    """Read images whose captions are names of the model's classes (an empty one is no class).

    Args:
        pipeline: names the classes.
        sets: images by the name of their set, `forget` and `retain` among them.
        anchors: for each forget class, the classes to show instead; a class that is not a key
            takes them from all anchors together.
        size: pixels a side, the model's own.
        device: unused.

    Raises InputError for a caption that is not a class, or another size.
    """
    own = int(pipeline.unet.config.sample_size)
    if size != own:
        raise InputError(f"This model is for images of {own} pixels.", f"Give --resolution {own}.")
    every = tuple(dict.fromkeys(name for names in anchors.values() for name in names))
    instead = {name: tuple(anchors.get(name, every)) for name in set(sets["forget"].captions)}
    encoded = {
        name: _pixels(
            torch.stack([load_image(path, size) for path in images.paths]),
            pipeline.labels(images.captions),
        )
        for name, images in sets.items()
    }
    return _cache(pipeline.classes, encoded, instead)


def encode_labelled(
    classes: Sequence[str],
    sets: Mapping[str, LabelledSet],
    anchors: Mapping[str, Sequence[str]],
) -> LatentCache:
    """The same of labelled images that are in memory.

    Args:
        classes: names of the model's classes, by label.
        sets: images by the name of their set, of the model's size.
        anchors: for each forget class, the classes to show instead; empty where nothing is
            forgotten.

    Raises InputError for a name that is not a class.
    """
    encoded = {
        name: _pixels(images.images.float().cpu() / 127.5 - 1, images.labels.cpu())
        for name, images in sets.items()
    }
    return _cache(classes, encoded, anchors)


def split_by_class(
    data: LabelledSet, classes: Sequence[str], forget: Sequence[str]
) -> dict[str, LabelledSet]:
    """`forget`: the images of the classes to forget; `retain`: the images of all others.

    Raises InputError for an unknown class, or when either set is empty.
    """
    labels = data.labels.cpu()
    chosen = torch.isin(labels, torch.tensor([_label(classes, name) for name in forget]))
    sets = {
        name: data.subset(rows.nonzero().flatten())
        for name, rows in (("forget", chosen), ("retain", ~chosen))
    }
    for name, images in sets.items():
        if not len(images):
            raise InputError(
                f"No image is left for the {name} set without, or of, {', '.join(forget)}.",
                "Name fewer classes, or give more data.",
            )
    return sets


def _pixels(images: Tensor, labels: Tensor) -> EncodedImages:
    return EncodedImages(images, torch.zeros(len(images), 1, 1, 1), labels)


def _cache(
    classes: Sequence[str],
    sets: Mapping[str, EncodedImages],
    anchors: Mapping[str, Sequence[str]],
) -> LatentCache:
    null = len(classes)
    width = max((len(names) for names in anchors.values()), default=1)
    rows = torch.full((null + 1, width), null)
    for name, names in anchors.items():
        labels = [_label(classes, other) if other else null for other in names]
        cycled = [labels[k % len(labels)] for k in range(width)]
        rows[_label(classes, name) if name else null] = torch.tensor(cycled)
    return LatentCache(sets, {"labels": torch.arange(null + 1)}, rows, null)


def _label(classes: Sequence[str], name: str) -> int:
    if name not in classes:
        raise InputError(f"There is no class {name!r}.", f"Known: {', '.join(classes)}.")
    return list(classes).index(name)
