"""What has to hold before anything that takes long begins; nothing here changes anything."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from erase.config.fields import FieldSpec
from erase.errors import InputError

SMALL = 10**7  # bytes: as much is not worth a refusal


def check_device(device: str) -> None:
    """InputError for a torch device that is not there, or that nothing can be read back from."""
    import torch

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
    try:
        folder.lstat()
        folder.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise InputError(
                f"{folder} cannot be used: {error.strerror}.", f"Give another {option}."
            ) from error
    nearest = _nearest(folder)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "may not be written to" if nearest.is_dir() else "is a file"
        raise InputError(f"{folder} cannot be used: {nearest} {why}.", f"Give another {option}.")


def check_memory(setting: FieldSpec, value: int | None, needed: float, device: str | None) -> None:
    """InputError for a setting whose tensors alone are larger than the device's whole memory.

    `needed` are bytes that the value takes in any case; None as `device` is a GPU if there is one.
    """
    memory = device_memory(device)
    if needed > memory:
        raise setting.refusal(
            value,
            f"which takes {_size(needed)} at the least; there are {_size(memory)} of memory",
            "Give a smaller value.",
        )


def device_memory(device: str | None) -> int:
    """All memory of a device, in bytes, whoever holds it now."""
    import torch

    if (device or "cuda").startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device or "cuda").total_memory)
    return int(psutil.virtual_memory().total)


def check_space(setting: FieldSpec, value: int | None, needed: float, folder: Path) -> None:
    """InputError for a setting whose files take more bytes than the folder's disk has free."""
    free = shutil.disk_usage(_nearest(folder.absolute())).free
    if needed > max(free, SMALL):
        raise setting.refusal(
            value,
            f"whose images take about {_size(needed)}; the disk of {folder} has {_size(free)} free",
            "Give a smaller value, or a folder on another disk.",
        )


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
