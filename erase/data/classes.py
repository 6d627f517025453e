"""Images by class: a folder of images for each class, like Imagenette or an ImageFolder tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from erase.artifacts.cache import cache_folder
from erase.core.rng import generator
from erase.data.captioned import SUFFIXES, CaptionedImages
from erase.data.prompts import TEMPLATES, ClassList
from erase.errors import InputError

SENTENCE = "an image of a {name}"
"""Caption of a class in the sources' experiments with Stable Diffusion (SalUn, LUR table 4)."""
IMAGENETTE = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette")
"""Names of the folders that Imagenette's archives and this project's tools unpack to."""


@dataclass(frozen=True)
class ClassImages:
    """The classes of a folder tree, in order, with the image files of each."""

    classes: ClassList
    files: tuple[tuple[Path, ...], ...]


def plain_list(
    names: Sequence[str], *, sentence: str = SENTENCE, suite: str | None = None
) -> ClassList:
    """A class list of these names with one caption for all purposes."""
    templates: dict[str, tuple[str, ...]] = dict.fromkeys(TEMPLATES, (sentence,))
    return ClassList(suite, tuple({"name": name} for name in names), templates)


def read_class_folder(folder: Path, lists: Sequence[ClassList]) -> ClassImages:
    """Find the classes and images of a folder tree; a folder `train` in it is read alone.

    Args:
        folder: holds a folder of images for each class, which is named by the class's name (with
            underscores for spaces, if need be) or by another of its spellings (`n03445777`).
        lists: if all folders are classes of one of these lists, its names, captions and order are
            used; else the classes are named after the folders.

    Raises:
        InputError: the folder is missing, it has fewer than two classes, a class has no images, or
            two folders are of one class.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give one with a folder for each class.")
    base = folder / "train" if (folder / "train").is_dir() else folder
    folders = sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) < 2:
        raise InputError(
            f"{base} holds {len(folders)} class folders.",
            "Two or more are needed: the class to forget, and others to retain.",
        )
    files = {}
    for item in folders:
        files[item.name] = tuple(sorted(f for f in item.rglob("*") if f.suffix.lower() in SUFFIXES))
        if not files[item.name]:
            raise InputError(
                f"{item} holds no image ({', '.join(sorted(SUFFIXES))}).",
                "Put its images there, or remove the folder.",
            )
    names = {name: name.replace("_", " ") for name in files}
    matching = next((c for c in lists if all(_label(c, n) is not None for n in files)), None)
    if matching is None:
        classes = plain_list(list(names.values()))
        return ClassImages(classes, tuple(files.values()))
    labels: dict[int, str] = {}
    for name in files:
        label = _label(matching, name)
        assert label is not None
        if label in labels:
            raise InputError(
                f"{base} has two folders of the class {matching.names[label]!r}: {labels[label]},"
                f" {name}.",
                "Merge them.",
            )
        labels[label] = name
    order = sorted(labels)
    return ClassImages(
        replace(matching, classes=tuple(matching.classes[label] for label in order)),
        tuple(files[labels[label]] for label in order),
    )


def _label(classes: ClassList, folder: str) -> int | None:
    label = classes.label(folder)
    return classes.label(folder.replace("_", " ")) if label is None else label


def with_captions(
    images: ClassImages, captions: Mapping[str, Sequence[str]], count: int | None, seed: int
) -> CaptionedImages:
    """Choose images of some classes, as evenly as possible, and give them captions.

    Args:
        images: the folder tree.
        captions: for each chosen class by name; its images take them in turn.
        count: images over all classes; None takes all there are.
        seed: of the choice.

    Raises:
        InputError: there are fewer images than `count`.
    """
    chosen = [
        (label, captions[name])
        for label, name in enumerate(images.classes.names)
        if name in captions
    ]
    available = sum(len(images.files[label]) for label, _ in chosen)
    if count is not None and count > available:
        raise InputError(
            f"{count} images of {', '.join(captions)} are asked for, and there are {available}.",
            "Ask for fewer (--num-forget-images, --num-retain-images), or give more data.",
        )
    queues = {}
    for label, _ in chosen:
        files = images.files[label]
        order = torch.randperm(len(files), generator=generator(seed, "class-images", label))
        queues[label] = [files[index] for index in order.tolist()]
    rows = [
        (number, label, queues[label][number], texts[number % len(texts)])
        for label, texts in chosen
        for number in range(len(queues[label]))
    ]
    rows.sort(key=lambda row: row[:2])  # one of each class at a time
    rows = sorted(rows[:count], key=lambda row: row[2])
    return CaptionedImages(tuple(row[2] for row in rows), tuple(row[3] for row in rows))


def find_imagenette(data_dir: Path | None) -> Path:
    """The folder of Imagenette: `data_dir`, or a folder of one of its names in there or the cache.

    Raises:
        InputError: it is in none of these places.
    """
    root = data_dir or cache_folder("datasets")
    for folder in (root, *(root / name for name in IMAGENETTE)):
        if (folder / "train" / "n01440764").is_dir():
            return folder
    raise InputError(
        f"Imagenette is not in {root}.",
        f"Unpack imagenette2-320.tgz (github.com/fastai/imagenette) into {root}, or say where it is"
        " with --data-dir.",
    )
