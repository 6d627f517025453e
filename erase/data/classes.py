"""Images by class: a folder of images for each class, like Imagenette or an ImageFolder tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from erase.artifacts.cache import cache_folder
from erase.core.rng import generator
from erase.data.captioned import CaptionedImages, no_image
from erase.data.pictures import SUFFIXES, PictureFolder, hidden, list_pictures, named
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
    notes: tuple[str, ...] = ()
    """What was left out, for the user."""


def plain_list(
    names: Sequence[str], *, sentence: str = SENTENCE, suite: str | None = None
) -> ClassList:
    """A class list of these names with one caption for all purposes."""
    templates: dict[str, tuple[str, ...]] = dict.fromkeys(TEMPLATES, (sentence,))
    return ClassList(suite, tuple({"name": name} for name in names), templates)


def list_classes(
    base: Path, *, root: Path | None = None, follow_links: bool | None = False
) -> tuple[PictureFolder, ...]:
    """The folders of a folder tree by name, one a class, with the pictures in each.

    Raises InputError for fewer than two, for one without pictures, and for a link that leads out of
    `root` (without one: `base`), unless `follow_links`.
    """
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not hidden(path.name))
    if len(folders) < 2:
        raise InputError(
            f"{base} holds {len(folders)} class folders.",
            "Two or more are needed, each named by its class: the one to forget, and others.",
        )
    listings = tuple(
        list_pictures(folder, root=root or base, follow_links=follow_links) for folder in folders
    )
    for listing in listings:
        if not listing.pictures:
            raise no_image(listing.folder, listing)
    return listings


def left_out(base: Path, listings: Sequence[PictureFolder]) -> tuple[str, ...]:
    """A line for the user that names the files that no class has; none without any."""
    beside = [f for f in sorted(base.iterdir()) if f.suffix.lower() in SUFFIXES and f.is_file()]
    others = [*beside, *(file for listing in listings for file in listing.others)]
    names = named([str(file.relative_to(base)) for file in others if not hidden(file.name)])
    return (f"in {base}, left out: {names}",) if names else ()


def read_class_folder(
    folder: Path, lists: Sequence[ClassList], *, follow_links: bool | None = False
) -> ClassImages:
    """Find the classes and images of a folder tree; a folder `train` in it is read alone.

    Args:
        folder: holds a folder of images for each class, which is named by the class's name (with
            underscores for spaces, if need be) or by another of its spellings (`n03445777`).
        lists: if all folders are classes of one of these lists, its names, captions and order are
            used; else the classes are named after the folders.
        follow_links: whether links may lead out of `folder`.

    Raises:
        InputError: the folder is missing, it has fewer than two classes, a class has no images, a
            link leads out of it, or two folders are of one class.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give one with a folder for each class.")
    base = folder / "train" if (folder / "train").is_dir() else folder
    listings = list_classes(base, root=folder, follow_links=follow_links)
    notes = left_out(base, listings)
    files = {listing.folder.name: listing.pictures for listing in listings}
    names = {name: name.replace("_", " ") for name in files}
    matching = next((c for c in lists if all(_label(c, n) is not None for n in files)), None)
    if matching is None:
        classes = plain_list(list(names.values()))
        return ClassImages(classes, tuple(files.values()), notes)
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
        notes,
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
    paths, texts = tuple(row[2] for row in rows), tuple(row[3] for row in rows)
    return CaptionedImages(paths, texts, images.notes)


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
