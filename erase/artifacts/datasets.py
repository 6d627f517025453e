"""Public data sets that are fetched as an archive: pinned, unpacked into the cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from erase.artifacts.cache import cache_folder
from erase.artifacts.download import Progress, download, unpack
from erase.errors import MissingError

CIFAR_SITE = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Archive:
    """A data set's official archive, and the folder that it unpacks to."""

    title: str
    """For people."""
    url: str
    md5: str
    """Of the archive; its publisher gives nothing better."""
    folder: str
    files: Mapping[str, str]
    """What has to be in the folder, with the MD5 of each file; empty where the archive's own
    checksum covers it."""
    size: int | None = None
    """Bytes of the archive, about; None where it was not measured."""

    @property
    def file(self) -> str:
        """Name of the archive."""
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cifar10": Archive(
        "CIFAR-10",
        f"{CIFAR_SITE}cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            "batches.meta.txt": "",
        },
        170_052_171,
    ),
    "cifar100": Archive(
        "CIFAR-100",
        f"{CIFAR_SITE}cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        {"train.bin": "", "test.bin": "", "fine_label_names.txt": ""},
    ),
}


def find_dataset(name: str) -> Path:
    """The folder of a data set of `ARCHIVES` in the cache; InputError names a file it lacks."""
    archive = ARCHIVES[name]
    folder = cache_folder("datasets") / archive.folder
    if missing := [file for file in archive.files if not (folder / file).is_file()]:
        raise MissingError(
            f"{archive.title} is not on this machine: {folder / missing[0]} is missing."
        )
    return folder


def fetch_dataset(name: str, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Download a data set of `ARCHIVES` and unpack it into a folder (default: in the cache).

    An archive that lies there already is only unpacked. RunError as for `download` and `unpack`.
    """
    archive, root = ARCHIVES[name], root or cache_folder("datasets")
    file = root / archive.file
    if not file.is_file():
        download(archive.url, file, archive.md5, algorithm="md5", progress=progress)
    unpack(file, archive.folder)
    return root / archive.folder
