"""A tiny classifier world for tests: 4 classes of 8 x 8 images, learnt in a second."""

from functools import cache

import torch

from erase.config.classifier import ClassifierConfig, fill
from erase.data.classification import Augmentation, ClassificationData, LabelledSet
from erase.models.classifiers import Description, build
from erase.tasks.classifier import ImageClassifierTask
from erase.training.classifier import Original, run_method

CLASSES = ("bars", "columns", "top", "left")
BATCH = 16


def images_of(label: int, count: int, seed: int) -> torch.Tensor:
    clean = torch.zeros(3, 8, 8)
    if label == 0:
        clean[:, ::2] = 1
    elif label == 1:
        clean[:, :, ::2] = 1
    elif label == 2:
        clean[:, :4] = 1
    else:
        clean[:, :, :4] = 1
    noise = torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return ((clean * 0.6 + 0.2 + 0.35 * noise).clamp(0, 1) * 255).to(torch.uint8)


def labelled(count: int, seed: int) -> LabelledSet:
    images = torch.cat([images_of(k, count, seed + k) for k in range(4)])
    labels = torch.arange(4).repeat_interleave(count)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return LabelledSet(images[order], labels[order])


@cache
def original() -> Original:
    train = labelled(28, 0)
    data = ClassificationData(
        "tiny",
        CLASSES,
        train,
        labelled(10, 100),
        (0.5,) * 3,
        (0.4,) * 3,
        Augmentation(8, pad=1, flip=False),
        "digits",
    )
    held = tuple(range(12))
    description = Description("cnn", CLASSES, 8, data.mean, data.std, "tiny", validation=held)
    start = Original(build(description), description, data, torch.arange(12, len(train)))
    config = fill(
        ClassifierConfig(method="retrain", epochs=8, train_batch_size=BATCH), "digits", 0.0
    )
    out = run_method(start, torch.zeros(0, dtype=torch.long), config)
    return Original(out.model, description, data, start.trained_on)


def forget_class(label: int = 0) -> torch.Tensor:
    world = original()
    chosen = world.trained_on
    return chosen[world.data.train.labels[chosen] == label]


def task(
    forget: torch.Tensor | None = None, *, seed: int = 0, epochs: int = 1
) -> ImageClassifierTask:
    from copy import deepcopy

    world = original()
    forget = forget_class() if forget is None else forget
    retain = world.trained_on[~torch.isin(world.trained_on, forget)]
    return ImageClassifierTask(
        model=deepcopy(world.model),
        forget=world.data.train.subset(forget),
        retain=world.data.train.subset(retain),
        augmentation=world.data.augmentation,
        classes=4,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        fresh=lambda seed: build(world.description, seed=seed),
    )
