"""Picture files: one reader for the whole program, and one listing of a folder's pictures.

`read_picture` gives the RGB pixels that a viewer shows, whatever the file holds: grey of 1 to 32
bits, palettes, CMYK, an embedded colour profile, an orientation in EXIF, transparency (shown on
white), an animation (its first frame). A file that is cut, damaged, too large or no regular file is
an error that names it.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from erase.errors import InputError
from erase.files import lies_inside

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
"""Pillow's formats that are read, with the suffixes of their files; others are never tried."""
Image.init()  # knows the formats by name only then
if "avif" not in features.modules or not features.check_module("avif"):
    del FORMATS["AVIF"]
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
REMEDY = "Remove or replace the file."

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_PROFILES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile → mode
_TURNS = {  # EXIF's orientation → what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_COPIES = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}  # beside names that begin with a dot
_TEXTS = {
    *(".txt", ".caption", ".md", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml"),
    *(".xml", ".html", ".log"),
}

# Pillow warns from 89 million pixels on and refuses twice as many; phones make 108 million.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_picture(path: Path) -> Image.Image:
    """The picture as a viewer shows it, upright, in RGB.

    Raises InputError, naming the file, when it is missing, no regular file, no picture of one of
    `FORMATS`, cut or damaged, of more than `2 * PIL.Image.MAX_IMAGE_PIXELS` pixels (179 million),
    or of values that no viewer agrees on.
    """
    try:
        with _opened(path) as image:
            image.verify()  # the checksums, which PNG has and which decoding passes over
        with _opened(path) as image:
            image.load()
            shown, turn = _rgb(image), _TURNS.get(_orientation(image))
            return shown if turn is None else shown.transpose(turn)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise _unusable(path, error) from error


def check_header(path: Path) -> None:
    """InputError as in `read_picture` for what is known without the pixels, checksums included."""
    try:
        with _opened(path) as image:
            image.verify()
    except Exception as error:
        raise _unusable(path, error) from error


def unreadable(path: Path, *, pixels: bool = True) -> bool:
    """Whether `read_picture` refuses the file.

    Without `pixels` nothing is decoded: that finds what is cut or damaged in PNG alone, the format
    of all renders.
    """
    try:
        (read_picture if pixels else check_header)(path)
    except InputError:
        return True
    return False


def unreadable_among(paths: Sequence[Path]) -> list[bool]:
    """`unreadable` of each path, several at a time."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        return list(pool.map(unreadable, paths))


def _opened(path: Path) -> Image.Image:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise OSError("no regular file")
    return Image.open(path, formats=list(FORMATS))


def _unusable(path: Path, error: Exception) -> InputError:
    if isinstance(error, UnidentifiedImageError):
        why = "no picture of a known format"
    else:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
    return InputError(f"{path} is not a readable image ({type(error).__name__}: {why}).", REMEDY)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # viewers show a picture with damaged EXIF as it lies
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode in _DEEP:
        image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
        image = image.convert("RGB")
    return (_srgb(image, profile) if profile else image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, or of floats in [0, 1] or [0, 255], as grey of 8; ValueError for others."""
    raw = np.asarray(image)
    low, high = float(raw.min()), float(raw.max())
    white = 65535.0 if image.mode != "F" else 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= white):
        raise ValueError(f"values from {low:g} to {high:g}, where {white:g} is white")
    values = raw.astype(np.float32)  # holds 16 bits exactly
    clear = image.info.get("transparency")
    if clear is not None:
        values[values == clear] = white
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def _srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The colours of a picture with a profile in sRGB; a broken profile changes nothing."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _PROFILES.get(source.profile.xcolor_space.strip())
        if mode is None or "sRGB" in ImageCms.getProfileDescription(source):
            return image
        colours = image.convert(mode)
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(colours, source, target, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder and of those in it, by their suffixes; none is opened.

    Hidden files and folders (`.ipynb_checkpoints`, `._0.png`, `.DS_Store`, `__MACOSX`) are passed
    over.
    """

    folder: Path
    pictures: tuple[Path, ...]
    """Sorted."""
    texts: tuple[Path, ...]
    """Files that hold text, by their suffixes."""
    others: tuple[Path, ...]
    """Everything else, such as pictures of a format that is not read."""

    def left_out(self) -> str:
        """The files that are neither picture nor text, for people; empty without any."""
        return named([str(path.relative_to(self.folder)) for path in self.others])


def named(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def list_pictures(
    folder: Path, *, root: Path | None = None, follow_links: bool | None = False
) -> PictureFolder:
    """List a folder's pictures.

    Args:
        folder: to look in, and in the folders in it.
        root: what the user named, where that is more than `folder`.
        follow_links: whether links may lead out of `root`.

    Raises:
        InputError: `folder` is none, or a link in it leads out of `root`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.", "Give a folder of images.")
    pictures: list[Path] = []
    texts: list[Path] = []
    others: list[Path] = []
    for path in sorted(_files(folder, root or folder, bool(follow_links))):
        suffix = path.suffix.lower()
        (pictures if suffix in SUFFIXES else texts if suffix in _TEXTS else others).append(path)
    return PictureFolder(folder, tuple(pictures), tuple(texts), tuple(others))


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is a copy or note of some program, not of the user."""
    return name.startswith(".") or name in _COPIES


def _files(folder: Path, root: Path, follow_links: bool) -> Iterator[Path]:
    seen = set()
    if not follow_links:
        _check_inside(folder, root)
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not hidden(name))
        paths = [Path(parent, name) for name in names if not hidden(name)]
        for path in [*(Path(parent, name) for name in folders), *paths]:
            if not follow_links and path.is_symlink():
                _check_inside(path, root)
        # A folder that a link leads to, inside this one, is listed where it lies.
        folders[:] = [
            name
            for name in folders
            if not (Path(parent, name).is_symlink() and lies_inside(Path(parent, name), folder))
        ]
        yield from paths


def _check_inside(path: Path, root: Path) -> None:
    if not lies_inside(path, root):
        raise InputError(
            f"{path} is a link that leads out of {root}, to {os.path.realpath(path)}.",
            "Put what it leads to into the folder, or give --follow-links.",
        )
