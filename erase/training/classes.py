"""`erase class`: which classes a model and its data have, and the two sets made of them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from erase.config.concept import ClassConfig
from erase.config.recipes import CLASS_EPOCHS, LARGE
from erase.data.captioned import check_readable
from erase.data.classes import (
    ClassImages,
    find_imagenette,
    plain_list,
    read_class_folder,
    with_captions,
)
from erase.data.classification import CIFAR, LabelledSet, load_dataset
from erase.data.concepts import Concept, find_classes
from erase.data.prompts import ClassList, class_lists, prompts_root
from erase.errors import InputError
from erase.models.loading import ModelSource
from erase.tasks.class_conditional import class_names, split_by_class
from erase.training.sets import DRAWN, Images

RENDER = "render"


def class_sets(config: ClassConfig, source: ModelSource) -> tuple[Concept, dict[str, Images]]:
    """What to forget and keep, and the images of both sets, unless they are to be rendered.

    Raises InputError for a class that the model or the data does not have, naming the closest,
    for data that is missing or does not fit the model, and for a set that would be empty.
    """
    if not config.target:
        raise InputError("--target is missing.", "Say which class to forget.")
    lists = class_lists(prompts_root(config.prompts))
    own = own_classes(source, lists)
    if config.data in (*CIFAR, "digits"):
        return _labelled(config, own)
    if config.data == RENDER:
        return find_classes(own or _list_of(config.target[0], source, lists), *_what(config)), {}
    where = Path(config.data_dir) if config.data_dir else None
    folder = find_imagenette(where) if config.data == "imagenette" else Path(config.data)
    return _from_folder(config, source, read_class_folder(folder, lists), own)


def _what(config: ClassConfig) -> tuple[tuple[str, ...], str | None]:
    return config.target, config.anchor


def own_classes(source: ModelSource, lists: list[ClassList]) -> ClassList | None:
    """The classes of a class-conditional model, whose names are its prompts; else None."""
    names = list(dict.fromkeys(source.classes().values()))
    if not names:
        return None
    suite = next((c.suite for c in lists if set(names) <= set(c.names)), None)
    return plain_list(names, sentence="{name}", suite=suite)


def _list_of(word: str, source: ModelSource, lists: list[ClassList]) -> ClassList:
    """The class list that a word belongs to; without one, all lists as one, to name the closest."""
    only = DRAWN.get(source.name)
    fitting = [c for c in lists if only in (None, c.suite)]
    found = next((c for c in fitting if c.label(word) is not None), None)
    if found is not None:
        return found
    return plain_list(list(dict.fromkeys(name for c in fitting for name in c.names)))


def _from_folder(
    config: ClassConfig, source: ModelSource, images: ClassImages, own: ClassList | None
) -> tuple[Concept, dict[str, Images]]:
    if own is not None:
        images = replace(images, classes=_as_own(images.classes, own))
    concept = find_classes(images.classes, *_what(config))
    sets: dict[str, Images] = {}
    counts: dict[str, int] = {}
    for name in ("forget", "retain"):
        captions = {
            item: images.classes.captions(name, label)
            for label, item in enumerate(images.classes.names)
            if (item in concept.names) == (name == "forget")
        }
        count = getattr(config, f"num_{name}_images")
        found = with_captions(images, captions, count, config.seed)
        check_readable(found)
        sets[name], counts[name] = found, len(found.paths)
    large = own is None and source.resolution() > 64
    return _with_recipe(concept, config, counts, large), sets


def _as_own(found: ClassList, own: ClassList) -> ClassList:
    """The data's classes as the model names them."""
    labels = [own.label(name) for name in found.names]
    if None in labels:
        strange = found.names[labels.index(None)]
        raise InputError(
            f"The data has the class {strange!r}, which the model does not know.",
            f"It knows: {', '.join(own.names)}. Rename the folders, or remove the others.",
        )
    classes = tuple(own.classes[label] for label in labels if label is not None)
    return replace(own, classes=classes)


def _labelled(config: ClassConfig, own: ClassList | None) -> tuple[Concept, dict[str, Images]]:
    """CIFAR or digits, in memory, for class-conditional models of all or some of their classes."""
    if own is None:
        raise InputError(
            f"--data {config.data} is for class-conditional models.",
            "Give --data imagenette, a folder with one folder of images a class, or render.",
        )
    data_dir = Path(config.data_dir) if config.data_dir else None
    concept = find_classes(own, *_what(config))  # a misspelt class shows before the data is read
    data = load_dataset(str(config.data), data_dir)
    names = class_names(data)
    if strange := sorted(set(own.names) - set(names)):
        raise InputError(
            f"{config.data} has no class {', '.join(strange[:5])}, which the model knows.",
            f"It has: {', '.join(names)}.",
        )
    table = torch.tensor([own.names.index(n) if n in own.names else -1 for n in names])
    labels = table[data.train.labels]
    known = (labels >= 0).nonzero().flatten()
    train = LabelledSet(data.train.images[known], labels[known])
    sets = {
        name: _first(images, getattr(config, f"num_{name}_images"))
        for name, images in split_by_class(train, own.names, concept.names).items()
    }
    return _with_recipe(concept, config, {n: len(s) for n, s in sets.items()}, False), {**sets}


def _first(images: LabelledSet, count: int | None) -> LabelledSet:
    """The first `count`; the official order is random already."""
    if count is not None and count > len(images):
        raise InputError(
            f"{count} images are asked for, and there are {len(images)}.", "Ask for fewer."
        )
    return images.subset(torch.arange(len(images) if count is None else count))


def _with_recipe(
    concept: Concept, config: ClassConfig, counts: Mapping[str, int], large: bool
) -> Concept:
    """The concept with the sizes of its sets and, for Stable Diffusion, SalUn's settings."""
    recipe = {f"num_{name}_images": count for name, count in counts.items()}
    if large:
        recipe |= {"max_train_steps": _steps(counts["forget"], config)}
    return replace(concept, recipe={**concept.recipe, **recipe})


def _steps(images: int, config: ClassConfig) -> int:
    batch = config.train_batch_size or LARGE["train_batch_size"]
    return math.ceil(CLASS_EPOCHS * images / (batch * config.gradient_accumulation_steps))


def class_recipe(concept: Concept, config: ClassConfig) -> dict[str, Any]:
    """The recipe of `class_sets`, should the configuration now have another batch size."""
    recipe = dict(concept.recipe)
    if {"max_train_steps", "num_forget_images"} <= set(recipe):
        recipe["max_train_steps"] = _steps(recipe["num_forget_images"], config)
    return recipe
