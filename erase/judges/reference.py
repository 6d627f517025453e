"""Folders of real images, as distances refer to them: with classes as subfolders, or flat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.data.pictures import list_pictures, unreadable_among
from erase.errors import InputError
from erase.files import hash_files
from erase.scoring.names import plain


@dataclass(frozen=True)
class RealImages:
    """Readable image files, sorted, and the class of each."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    """Empty texts in a flat folder."""
    broken: tuple[str, ...]
    """Names of files that cannot be read, or are pictures of no known format."""
    ignored: tuple[str, ...]
    """Subfolders that are no class of the suite."""

    def fingerprint(self) -> str:
        """SHA-256 over names and contents."""
        return hash_files(self.files, self.folder)

    def describe(self) -> str:
        """For people."""
        text = f"{len(self.files)} real images of {self.folder.name}"
        if self.ignored:
            text += f", without {len(self.ignored)} folders of no class of the suite"
        if self.broken:
            text += f", without {len(self.broken)} that cannot be read: {', '.join(self.broken)}"
        return text

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {
            "folder": str(self.folder),
            "images": len(self.files),
            "unreadable": list(self.broken),
            "folders_ignored": list(self.ignored),
        }


def real_images(
    folder: Path,
    classes: Sequence[str],
    aliases: Mapping[str, str],
    *,
    follow_links: bool | None = False,
) -> RealImages:
    """The images of a folder; subfolders named like a class, or an alias of one, are that class.

    Names are compared without case, `_` and `-` standing for spaces. In a suite without classes
    every image below the folder counts. Every image is decoded once; those that cannot be are left
    out and listed. InputError when there are fewer than two, when no subfolder is a class of the
    suite, or when a link leads out of the folder, unless `follow_links`.
    """
    if not folder.is_dir():
        raise InputError(f"--reference: {folder} is no folder.", "Give a folder of real images.")
    listing = list_pictures(folder, follow_links=follow_links)
    if not listing.pictures:
        raise InputError(
            f"--reference: {folder} holds no image"
            + (f", but: {listing.left_out()}." if listing.others else "."),
            "Give a folder of real images.",
        )
    known = {_plain(name): name for name in classes}
    known |= {_plain(alias): name for alias, name in aliases.items()}
    wanted: dict[Path, str] = {}
    ignored = set()
    for file in sorted((*listing.pictures, *listing.others)):
        part = file.relative_to(folder).parts[0] if file.parent != folder else ""
        label = known.get(_plain(part), "") if classes else ""
        if classes and part and not label:
            ignored.add(part)
        else:
            wanted[file] = label
    damaged = dict(zip(wanted, unreadable_among(list(wanted)), strict=True))
    damaged |= dict.fromkeys(set(listing.others) & set(wanted), True)
    files = [file for file in wanted if not damaged[file]]
    labels = [wanted[file] for file in files]
    broken = [str(file.relative_to(folder)) for file in wanted if damaged[file]]
    if not files:
        raise InputError(
            f"--reference: no subfolder of {folder} is a class of the suite, and no image can be"
            " read.",
            f"Call the subfolders {', '.join(classes[:3])}, …" if classes else "Give other images.",
        )
    if len(files) < 2:
        raise InputError(
            f"--reference: {folder} holds a single image that can be read.", "Give at least two."
        )
    if len(set(map(bool, labels))) > 1:
        raise InputError(
            f"--reference: {folder} holds images beside the folders of classes.",
            "Put every image into a class, or none.",
        )
    return RealImages(folder, tuple(files), tuple(labels), tuple(broken), tuple(sorted(ignored)))


def _plain(name: str) -> str:
    return plain(name.replace("_", " ").replace("-", " "))
