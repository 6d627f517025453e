"""Folders of images with captions: what the forget and retain sets are made of.

A caption comes from `metadata.jsonl` in the folder (`{"file_name": …, "text": …}` on each line, the
layout of Hugging Face image folders), else from a `.txt` file beside the image, else from the given
prompt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from erase.errors import InputError
from erase.files import read_jsonl, write_jsonl

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class CaptionedImages:
    """Image files with a caption each, or captions without files."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]


def write_captions(folder: Path, captions: dict[str, str]) -> None:
    """Write `metadata.jsonl`: file name → caption."""
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    write_jsonl(folder / METADATA, rows)


def read_folder(folder: Path, prompts: tuple[str, ...] = ()) -> CaptionedImages:
    """Find a folder's images and captions.

    Images without a caption of their own get the prompt in `prompts`. There has to be exactly one:
    nothing says which of several prompts belongs to which image.

    Raises InputError for a folder without images, or an image without a caption.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.", "Give a folder of images.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(
            f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}).",
            "Give a folder of images.",
        )
    listed = _metadata_captions(folder / METADATA)
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder / METADATA} lists {missing[0]!r}, which is not there.",
            "Correct the list.",
        )
    captions = []
    for path in paths:
        text_file = path.with_suffix(".txt")
        caption = listed.get(str(path.relative_to(folder)))
        if caption is None and text_file.is_file():
            caption = _read_caption(text_file)
        if caption is None and len(prompts) == 1:
            caption = prompts[0]
        if caption is None:
            raise InputError(
                f"{path} has no caption, and {len(prompts)} prompts could be meant.",
                f"Add {METADATA}, a .txt file beside each image, or give exactly one prompt.",
            )
        captions.append(caption)
    return CaptionedImages(tuple(paths), tuple(captions))


def _metadata_captions(path: Path) -> dict[str, str | None]:
    """Captions by file name from `metadata.jsonl`; None for a row without text."""
    try:
        rows: list[Any] = read_jsonl(path, Any)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    listed = {}
    for number, row in enumerate(rows, start=1):
        fields = row if isinstance(row, dict) else {}
        name, text = fields.get("file_name"), fields.get("text")
        if not isinstance(name, str) or not isinstance(text, str | None):
            raise InputError(
                f"{path}, row {number} does not name a file and its caption.",
                'Write each line as {"file_name": "NAME.png", "text": "CAPTION"}.',
            )
        listed[name] = text
    return listed


def _read_caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read as text ({type(error).__name__}).", "Save it as UTF-8 text."
    )


def check_readable(images: CaptionedImages) -> None:
    """Decode every image once; InputError names the first that cannot be decoded."""
    for path in images.paths:
        _decode(path)


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a readable image ({type(error).__name__}).",
            "Remove or replace the file.",
        ) from error


def load_image(path: Path, size: int) -> torch.Tensor:
    """One image as `[3, size, size]` in [-1, 1]: shorter side resized, centre cropped.

    Raises InputError with the name of a file that cannot be decoded.
    """
    image = _decode(path)
    if image.size != (size, size):
        image = transforms.center_crop(transforms.resize(image, [size]), [size, size])
    pixels: torch.Tensor = transforms.to_dtype(
        transforms.to_image(image), torch.float32, scale=True
    )
    return pixels * 2 - 1
