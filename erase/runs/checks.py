"""What has to hold before anything that takes long begins; nothing here changes anything."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from erase.errors import InputError


def check_device(device: str) -> None:
    """InputError for a torch device that is not there, or that nothing can be read back from."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"The device {device!r} is not there.", "Try cpu.") from error


def check_apart(output: Path, inputs: Iterable[str | Path | None], option: str) -> None:
    """InputError when a command would write over, or delete, something that it reads.

    That is an input which is `output` itself or lies in it, however either is spelt: links and `..`
    are followed. Names that are no path on this machine lie nowhere.
    """
    target = output.resolve()
    for path in inputs:
        # Path.expanduser would raise for a user that does not exist.
        if path and Path(os.path.expanduser(path)).resolve().is_relative_to(target):  # noqa: PTH111
            raise InputError(
                f"{path} lies in {output}, which --overwrite would delete.",
                f"Give another {option}.",
            )


def check_not_among(output: Path, folder: Path) -> None:
    """InputError for a file that is, or would be, among those of a run, by whatever path or link.

    Only a new file beside the run's own is none of them.
    """
    file, root = output.resolve(), folder.resolve()
    if file.is_relative_to(root) and (file.exists() or file.parent != root):
        raise InputError(
            f"{output} lies among the files of {folder}, which is read.", "Give another --output."
        )


def check_writable(folder: Path, option: str) -> None:
    """InputError, naming the option, for a folder in which, or as which, nothing can be made."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "may not be written to" if nearest.is_dir() else "is a file"
        raise InputError(f"{folder} cannot be used: {nearest} {why}.", f"Give another {option}.")
