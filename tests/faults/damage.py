"""The ways in which a file of a run is damaged, for the tests of faults."""

import shutil
from collections.abc import Callable
from pathlib import Path


def flip(file: Path, _: Path) -> None:
    """One bit of its middle byte."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path, _: Path) -> None:
    """Its last byte."""
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path, _: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path, _: Path) -> None:
    file.unlink()


def exchange(file: Path, other: Path) -> None:
    """For a sound file of another step, image or run."""
    shutil.copyfile(other, file)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "flipped bit": flip,
    "cut": cut,
    "empty": empty,
    "deleted": delete,
    "exchanged": exchange,
}
