"""Class-conditional DDPM: labels are the conditions, the null class is the empty condition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from erase.data.captioned import CaptionedImages, load_image
from erase.data.classification import ClassificationData, LabelledSet
from erase.data.digits import digit_captions
from erase.errors import InputError
from erase.models.class_conditional import ClassConditionalPipeline
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.family import Family
from erase.tasks.latents import EncodedImages, LatentCache


@dataclass
class ClassConditionalTask(DenoiserTask):
    """A class-conditional denoiser of pixels under unlearning, or in training.

    `flip` mirrors a random half of the images, drawn from (seed, step), as for photographs.
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
    sets: Mapping[str, CaptionedImages | LabelledSet],
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,  # noqa: ARG001 - the same call for all families
    prompts: Sequence[str] = (),
) -> LatentCache:
    """Read images whose captions are names of the model's classes; an empty one is the null class.

    Args:
        pipeline: its classes are used.
        sets: images by the name of their set, `forget` and `retain` among them: files with
            captions, or images in memory with the model's own labels, which may be larger than
            the model's by a whole factor.
        anchors: for each forget class, the classes to show instead; a class that is not a key
            gets all anchors.
        size: pixels a side, the model's own.
        device: unused.
        prompts: further names; each has to be a class.

    Raises InputError for a caption that is not a class, or images of another size.
    """
    model_size = int(pipeline.unet.config.sample_size)
    if size != model_size:
        raise InputError(
            f"This model is for images of {model_size} pixels.", f"Give --resolution {model_size}."
        )
    pipeline.labels(list(prompts))
    encoded = {name: _pixels(pipeline, images, size) for name, images in sets.items()}
    all_anchors = tuple(dict.fromkeys(name for names in anchors.values() for name in names))
    names = (*pipeline.classes, "")
    forgotten = [names[label] for label in encoded["forget"].condition.unique().tolist()]
    instead = {name: tuple(anchors.get(name, all_anchors)) for name in forgotten}
    return _cache(pipeline, encoded, instead)


def encode_retained(pipeline: ClassConditionalPipeline, images: LabelledSet) -> LatentCache:
    """Encode labelled images for training from scratch, where nothing is forgotten."""
    size = int(pipeline.unet.config.sample_size)
    return _cache(pipeline, {"retain": _pixels(pipeline, images, size)}, {})


def class_names(data: ClassificationData) -> tuple[str, ...]:
    """Names of a data set's classes as prompts of a model ("three", not "3")."""
    return digit_captions().names if data.name == "digits" else data.classes


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


def _pixels(
    pipeline: ClassConditionalPipeline, images: CaptionedImages | LabelledSet, size: int
) -> EncodedImages:
    if isinstance(images, LabelledSet):
        stored = images.images.shape[-1]
        if stored % size:
            raise InputError(
                f"The images have {stored} pixels a side, the model {size}.", "Give other data."
            )
        pixels, labels = images.images.float().cpu() / 127.5 - 1, images.labels.cpu()
        pixels = F.avg_pool2d(pixels, stored // size) if stored > size else pixels
    else:
        channels = pipeline.unet.config.in_channels
        pixels = torch.stack(
            [torch.empty(channels, size, size), *(load_image(path, size) for path in images.paths)]
        )[1:]
        labels = pipeline.labels(images.captions)
    return EncodedImages(pixels, torch.zeros(len(pixels), 1, 1, 1), torch.as_tensor(labels))


def _cache(
    pipeline: ClassConditionalPipeline,
    sets: Mapping[str, EncodedImages],
    anchors: Mapping[str, Sequence[str]],
) -> LatentCache:
    null = pipeline.null_class
    width = max((len(names) for names in anchors.values()), default=1)
    rows = torch.full((null + 1, width), null)
    for name, names in anchors.items():
        labels = pipeline.labels([names[k % len(names)] for k in range(width)])
        rows[pipeline.labels([name])[0]] = labels
    prompts = {name: label for label, name in enumerate((*pipeline.classes, ""))}
    return LatentCache(sets, {"labels": torch.arange(null + 1)}, rows, null, prompts)


def _label(classes: Sequence[str], name: str) -> int:
    if name not in classes:
        raise InputError(f"There is no class {name!r}.", f"Known: {', '.join(classes)}.")
    return list(classes).index(name)


def conditions(_folder: Path, rows: int) -> dict[str, Tensor]:
    """Labels without content, ``[rows]``."""
    return {"labels": torch.zeros(rows, dtype=torch.long)}


FAMILY = Family(
    "ClassConditionalPipeline",
    "class-conditional DDPM",
    ClassConditionalTask,
    encode,
    conditions,
    UNet2DModel,
)
