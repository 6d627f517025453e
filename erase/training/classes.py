"""`erase class`: the classes of a model and its data, and the forget and retain sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from erase.config.concept import ClassConfig
from erase.data.captioned import check_readable
from erase.data.classes import (
    ClassImages,
    find_imagenette,
    plain_list,
    read_class_folder,
    with_captions,
)
from erase.data.classification import CIFAR, LabelledSet, load_dataset
from erase.data.concepts import Concept, find_classes, lists_for
from erase.data.prompts import ClassList, prompts_root
from erase.data.rendered import rendered_suite
from erase.errors import InputError
from erase.models.loading import ModelSource
from erase.runs.requests import Forgotten, forgotten_before
from erase.tasks.class_conditional import class_names, split_by_class
from erase.training.sets import Images

RENDER = "render"


def class_sets(config: ClassConfig, source: ModelSource) -> tuple[Concept, dict[str, Images]]:
    """The concept, and the images of both sets; no images if they are rendered later.

    Raises InputError for a class that the model or the data does not have (with the closest name),
    for data that is missing or does not fit the model, and for a set that would be empty.
    """
    if not config.target:
        raise InputError("--target is missing.", "Say which class to forget.")
    if config.erase_from:
        raise InputError("A class is forgotten as a whole.", "Leave out erase_from.")
    suite = rendered_suite(config.model)
    before = forgotten_before(config.model)
    lists = lists_for(prompts_root(config.prompts), suite)
    model_classes = classes_of_model(source, lists)
    if config.data in (*CIFAR, "digits"):
        return _from_data_set(config, model_classes, before)
    if config.data == RENDER:
        classes = model_classes or _class_list_of(config.target[0], suite, lists)
        return find_classes(classes, config.target, config.anchor, before), {}
    data_dir = Path(config.data_dir) if config.data_dir else None
    folder = find_imagenette(data_dir) if config.data == "imagenette" else Path(config.data)
    images = read_class_folder(folder, lists, follow_links=config.follow_links)
    return _from_folder(config, images, model_classes, before)


def classes_of_model(source: ModelSource, lists: list[ClassList]) -> ClassList | None:
    """The classes of a class-conditional model, whose names are its prompts; else None."""
    names = list(dict.fromkeys(source.classes().values()))
    if not names:
        return None
    suite = next((c.suite for c in lists if set(names) <= set(c.names)), None)
    return plain_list(names, sentence="{name}", suite=suite)


def _class_list_of(word: str, suite: str | None, lists: list[ClassList]) -> ClassList:
    """The class list that has the word; if none has it, all lists joined, for the error message."""
    fitting = [c for c in lists if suite in (None, c.suite)]
    matching = next((c for c in fitting if c.label(word) is not None), None)
    if matching is not None:
        return matching
    return plain_list(list(dict.fromkeys(name for c in fitting for name in c.names)))


def _from_folder(
    config: ClassConfig,
    images: ClassImages,
    model_classes: ClassList | None,
    before: Sequence[Forgotten],
) -> tuple[Concept, dict[str, Images]]:
    if model_classes is not None:
        images = replace(images, classes=_with_model_names(images.classes, model_classes))
    concept = find_classes(images.classes, config.target, config.anchor, before)
    gone = _names_of(images.classes, before)
    sets: dict[str, Images] = {}
    counts: dict[str, int] = {}
    for name in ("forget", "retain"):
        captions = {
            item: images.classes.captions(name, label)
            for label, item in enumerate(images.classes.names)
            if (item in concept.names if name == "forget" else item not in {*concept.names, *gone})
        }
        count = getattr(config, f"num_{name}_images")
        chosen = with_captions(images, captions, count, config.seed)
        check_readable(chosen)
        sets[name], counts[name] = chosen, len(chosen.paths)
    return _with_counts(concept, counts), sets


def _names_of(classes: ClassList, before: Sequence[Forgotten]) -> set[str]:
    """The classes of a list that were forgotten before."""
    labels = (classes.label(item.name) for item in before)
    return {classes.names[label] for label in labels if label is not None}


def _with_model_names(classes: ClassList, model_classes: ClassList) -> ClassList:
    """The data's classes as the model names them."""
    labels = [model_classes.label(name) for name in classes.names]
    if None in labels:
        unknown = classes.names[labels.index(None)]
        raise InputError(
            f"The data has the class {unknown!r}, which the model does not know.",
            f"It knows: {', '.join(model_classes.names)}."
            " Rename the folders, or remove the others.",
        )
    rows = tuple(model_classes.classes[label] for label in labels if label is not None)
    return replace(model_classes, classes=rows)


def _from_data_set(
    config: ClassConfig, model_classes: ClassList | None, before: Sequence[Forgotten]
) -> tuple[Concept, dict[str, Images]]:
    """CIFAR or digits, in memory, for class-conditional models of all or some of their classes."""
    if model_classes is None:
        raise InputError(
            f"--data {config.data} is for class-conditional models.",
            "Give --data imagenette, a folder with one folder of images a class, or render.",
        )
    data_dir = Path(config.data_dir) if config.data_dir else None
    # Before the data is read, so that a misspelt class is reported at once.
    concept = find_classes(model_classes, config.target, config.anchor, before)
    gone = _names_of(model_classes, before) - set(concept.names)
    data = load_dataset(str(config.data), data_dir)
    names = class_names(data)
    if unknown := sorted(set(model_classes.names) - set(names)):
        raise InputError(
            f"{config.data} has no class {', '.join(unknown[:5])}, which the model knows.",
            f"It has: {', '.join(names)}.",
        )
    table = torch.tensor(
        [model_classes.names.index(n) if n in model_classes.names else -1 for n in names]
    )
    labels = table[data.train.labels]
    kept = [place for place, name in enumerate(model_classes.names) if name not in gone]
    rows = torch.isin(labels, torch.tensor(kept)).nonzero().flatten()
    train = LabelledSet(data.train.images[rows], labels[rows])
    sets = {
        name: _first_images(images, getattr(config, f"num_{name}_images"))
        for name, images in split_by_class(train, model_classes.names, concept.names).items()
    }
    return _with_counts(concept, {name: len(images) for name, images in sets.items()}), {**sets}


def _first_images(images: LabelledSet, count: int | None) -> LabelledSet:
    """The first `count` images; the data sets' own order is already random."""
    if count is not None and count > len(images):
        raise InputError(
            f"{count} images are asked for, and there are {len(images)}.", "Ask for fewer."
        )
    return images.subset(torch.arange(len(images) if count is None else count))


def _with_counts(concept: Concept, counts: Mapping[str, int]) -> Concept:
    """Add the sizes of the sets to the concept's recipe."""
    sizes = {f"num_{name}_images": count for name, count in counts.items()}
    return replace(concept, recipe={**concept.recipe, **sizes})
