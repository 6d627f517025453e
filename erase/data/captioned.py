"""Folders of images with captions: what the forget and retain sets are made of.

A caption comes from `metadata.jsonl` or `metadata.csv` (`file_name`, and `text`, `caption` or
`prompt`, the layout of Hugging Face image folders; in the folder or in one of those in it), else
from a `.txt` or `.caption` file beside the image, else from the given prompt.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as transforms

from erase.data.pictures import SUFFIXES, PictureFolder, list_pictures, named, read_picture
from erase.data.texts import PROMPT, prompt_of, read_rows
from erase.errors import InputError
from erase.files import write_jsonl
from erase.reading import read_text

METADATA = "metadata.jsonl"
LISTS = (METADATA, "metadata.csv")
BESIDE = (".txt", ".caption")
"""Suffixes of caption files."""


@dataclass(frozen=True)
class CaptionedImages:
    """Image files with a caption each, or captions without files; `notes` are for the user."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    notes: tuple[str, ...] = ()


def write_captions(folder: Path, captions: dict[str, str]) -> None:
    """Write `metadata.jsonl`: file name → caption."""
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    write_jsonl(folder / METADATA, rows)


def read_folder(
    folder: Path, prompts: tuple[str, ...] = (), *, follow_links: bool | None = False
) -> CaptionedImages:
    """Find a folder's images and captions.

    Images without a caption of their own get the prompt in `prompts`. There has to be exactly one:
    nothing says which of several prompts belongs to which image. `follow_links` allows links that
    lead out of the folder.

    Raises InputError for a folder without images, an image without a caption or with two, a caption
    that cannot be read, and a link or listed name that leads out of the folder.
    """
    listing = list_pictures(folder, follow_links=follow_links)
    if not listing.pictures:
        raise no_image(folder, listing)
    listed = _listed_captions(listing)
    beside = _files_beside(listing)
    captions, without = [], []
    for path in listing.pictures:
        caption = listed.get(_key(path))
        if caption is None:
            caption = _read_beside(beside, path)
        if caption is None:
            without.append(str(path.relative_to(folder)))
            caption = prompts[0] if len(prompts) == 1 else None
        if caption is None:
            raise InputError(
                f"{path} has no caption, and {len(prompts)} prompts could be meant.",
                f"Add {METADATA}, a .txt file beside each image, or give exactly one prompt.",
            )
        captions.append(caption)
    own = {key for path in listing.pictures for key in _keys_beside(path)}
    strays = [file for key, files in beside.items() if key not in own for file in files]
    notes = {
        "read as no image": listing.left_out(),
        "the caption of no image": named([str(file.relative_to(folder)) for file in strays]),
        "without a caption of its own": named(without) if len(without) < len(captions) else "",
    }
    return CaptionedImages(
        listing.pictures,
        tuple(captions),
        tuple(f"in {folder}, {what}: {names}" for what, names in notes.items() if names),
    )


def no_image(folder: Path, listing: PictureFolder) -> InputError:
    """The refusal of a folder without pictures, which names what it holds instead."""
    others = listing.left_out()
    return InputError(
        f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})"
        + (f", but: {others}." if others else "."),
        "Give a folder of images.",
    )


def _key(path: Path) -> str:
    """A file by its place, however it is written: with `..`, or with decomposed accents."""
    return unicodedata.normalize("NFC", os.path.abspath(path))  # noqa: PTH100 - `absolute` keeps ..


def _listed_captions(listing: PictureFolder) -> dict[str, str | None]:
    """Captions by file from the folder's metadata; None for a row without one."""
    pictures = set(map(_key, listing.pictures))
    captions: dict[str, str | None] = {}
    for path in listing.texts:
        if path.name.lower() not in LISTS:
            continue
        for number, name, caption in _listed_rows(path):
            key = _key(path.parent / name)
            if key not in pictures and "\\" in name:
                key = _key(path.parent / name.replace("\\", "/"))
            if not Path(key).is_relative_to(_key(listing.folder)):
                raise InputError(
                    f"{path}, row {number} names {name!r}, which lies outside of {listing.folder}.",
                    "Put the file into the folder, and name it as it lies there.",
                )
            if key not in pictures:
                why = "is not read as an image" if Path(key).exists() else "is not there"
                raise InputError(f"{path} lists {name!r}, which {why}.", "Correct the list.")
            if captions.get(key) not in (None, caption):
                raise InputError(
                    f"{path}, row {number} gives {name!r} another caption than before.",
                    "Leave one of them.",
                )
            captions[key] = caption
    return captions


def _listed_rows(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Number, file name and caption of each row of a metadata file."""
    for number, (_, row) in enumerate(read_rows(path), start=1):
        name, caption = row.get("file_name"), prompt_of(row)
        if path.suffix.lower() == ".csv":
            caption = caption or None
        columns = set(row) - {"file_name"}
        if (
            not isinstance(name, str)
            or not isinstance(caption, str | None)
            or (columns and not columns & set(PROMPT))
        ):
            raise InputError(
                f"{path}, row {number} does not name a file and its caption.",
                'Write each line as {"file_name": "NAME.png", "text": "CAPTION"}; a table needs'
                " columns of these names.",
            )
        yield number, name, caption


def _files_beside(listing: PictureFolder) -> dict[str, list[Path]]:
    """Caption files by their place without the suffix."""
    files: dict[str, list[Path]] = {}
    for path in listing.texts:
        if path.suffix.lower() in BESIDE:
            files.setdefault(_key(path.with_suffix("")), []).append(path)
    return files


def _keys_beside(path: Path) -> tuple[str, str]:
    return _key(path.with_suffix("")), _key(path)  # 0.txt or 0.png.txt


def _read_beside(beside: dict[str, list[Path]], path: Path) -> str | None:
    files = [file for key in _keys_beside(path) for file in beside.get(key, ())]
    captions = list(dict.fromkeys(read_text(file, kind="text").strip() for file in files))
    if len(captions) > 1:
        raise InputError(
            f"{path} has two captions, in {files[0].name} and {files[1].name}.",
            "Leave one of them.",
        )
    return captions[0] if captions else None


def check_readable(images: CaptionedImages) -> None:
    """Decode every image once; InputError names the first that cannot be decoded."""
    for path in images.paths:
        read_picture(path)


def load_image(path: Path, size: int) -> torch.Tensor:
    """One image as `[3, size, size]` in [-1, 1]: shorter side resized, centre cropped.

    Raises InputError with the name of a file that cannot be decoded.
    """
    image = read_picture(path)
    if image.size != (size, size):
        image = transforms.center_crop(transforms.resize(image, [size]), [size, size])
    pixels: torch.Tensor = transforms.to_dtype(
        transforms.to_image(image), torch.float32, scale=True
    )
    return pixels * 2 - 1
