"""Errors that a user sees: one line saying what is wrong, one saying what to do about it.

`explained` turns what the machine does to a command (a full disk, forbidden paths, too little
memory) into such an error.
"""

import difflib
import errno
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path


def likely(name: str, known: Iterable[str]) -> str:
    """`Did you mean …? ` with the known name most like a misspelt one; empty when none is like it.

    Case, spaces, dots, dashes and underscores do not count.
    """
    plain = {_plain(item): item for item in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    return f"Did you mean {plain[close[0]]!r}? " if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]", "", name.lower())


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


LINE = 500
"""Most characters of a message."""


def visible(text: str) -> str:
    """A text with a replacement character for each control character but tabs and line ends.

    A terminal obeys control characters, and pages and tables break at them.
    """
    return _CONTROL.sub("\ufffd", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(text: str) -> str:
    """A text as a line of a message: without control characters, its middle left out if long."""
    text = " ".join(visible(text).split())
    return text if len(text) <= LINE else f"{text[: LINE // 2]} … {text[-LINE // 2 :]}"


class EraseError(Exception):
    """Base of every expected error.

    Args:
        message: what is wrong, in one line.
        remedy: what to do about it, in one line; empty when there is nothing to suggest.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InputError(EraseError):
    """The user's input cannot be used (exit code 2)."""

    exit_code = 2


class SettingError(InputError):
    """A setting has a value that it cannot have.

    Args:
        name: the setting, as configuration files and Python spell it.
        rest: what is wrong with it, after its name.
        remedy: what to do about it.
    """

    def __init__(self, name: str, rest: str, remedy: str) -> None:
        super().__init__(f"{name} {rest}", remedy)
        self.name = name
        self.rest = rest

    def of_option(self, option: str) -> InputError:
        """The same error for the option that the value was given to, such as `--limit`."""
        return InputError(f"{option} {self.rest}", self.remedy)


class MissingError(InputError):
    """Something public is not on this machine (exit code 2); the remedy says how to get it."""


class RunError(EraseError):
    """Something failed while running (exit code 1)."""

    exit_code = 1


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that tell a command to end."""


class Interrupted(KeyboardInterrupt):
    """A signal told the command to end (exit code 128 + the signal's number)."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"Interrupted by {signal.Signals(number).name}")
        self.number = number
        self.held = False
        """Whether a result's folder was held, so that the command can go on there later."""

    @property
    def exit_code(self) -> int:
        """What shells report of a process that this signal ended."""
        return 128 + self.number


_OTHER_PLACE = "Give a folder that may be written to."
_ERRNO = {
    errno.ENOSPC: ("the disk is full", "Free some space, or give a folder on another disk."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or give another folder."),
    errno.EFBIG: ("the file would be larger than is allowed", "Raise the limit (ulimit -f)."),
    errno.EROFS: ("the file system is read-only", _OTHER_PLACE),
    errno.EACCES: ("permission denied", "Change its permissions, or give another path."),
    errno.EPERM: ("the system forbids it", "Change its permissions, or give another path."),
    errno.ELOOP: ("it is a link that leads back to itself", "Remove the link."),
    errno.ENAMETOOLONG: ("the name is too long", "Give names of at most 255 bytes."),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n)."),
    errno.ENFILE: ("too many files are open", "Raise the limit of the system."),
    errno.EIO: ("the disk reports an error", "Check the disk; copy what is on it elsewhere."),
    errno.ENOENT: ("it is not there any more", "Was it moved or deleted? Then restore it."),
    errno.ENOTDIR: ("a part of the path is a file", "Give another path."),
    errno.EISDIR: ("it is a folder, not a file", "Give another path, or move it away."),
    errno.EEXIST: ("it is there already", "Give another path, or move it away."),
    errno.ENOTEMPTY: ("another process writes into it", "End that process, or give another path."),
    errno.ESTALE: ("the network folder is gone", "Mount it again."),
}
_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("could not create a primitive", "could not create a memory", "bad_alloc", "bad allocation"),
    *("alloc_failed", "failed to allocate", "failed to mmap", "unable to mmap"),
    "failed to map segment",
    *("storage size calculation overflow", "integer multiplication overflow"),
)
"""What torch, oneDNN, CUDA and onnxruntime say when memory does not suffice; accelerate's own list
(`should_reduce_batch_size`) knows three of them."""
_LOADED_TWICE = ("torch` can only be initialized once", "already has a docstring")
"""What torch says when it is imported again after it failed; libraries hide the first failure."""
_HOME = ("could not determine home directory", "getpwuid(): uid not found")


def is_memory_error(error: BaseException) -> bool:
    """Whether a smaller batch might have gone through."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(words in text for words in _MEMORY)


def os_error(error: BaseException, path: object = None) -> OSError | None:
    """The system's error behind another library's, with `path` where it names none; else None.

    Libraries that are written in Rust (safetensors, tokenizers) put the number into their text.
    """
    if isinstance(error, OSError):
        if error.errno is not None and error.filename is None and path is not None:
            error.filename = str(path)
        return error
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(found[1])
        return OSError(number, os.strerror(number), None if path is None else str(path))
    return None


def explained(error: BaseException) -> EraseError | None:
    """The two lines for an error that the machine is to blame for; None for any other error."""
    if isinstance(error, EraseError):
        return error
    if is_memory_error(error):
        return RunError(
            f"The memory does not suffice{_said(error)}.",
            "Give smaller batches (--train-batch-size, --render-batch-size, --batch-size), or end"
            " what else holds memory; --dry-run estimates what a run needs.",
        )
    system = os_error(error)
    text = str(error).lower()
    if any(words in text for words in _LOADED_TWICE):
        return RunError(
            "torch cannot be loaded.",
            "Most often the memory does not suffice (a container's limit, ulimit -v);"
            " `python -c 'import torch'` says why.",
        )
    if "can't start new thread" in text:
        return RunError(
            "The system allows no more threads.",
            "Raise the limit (ulimit -u), or set OMP_NUM_THREADS=1.",
        )
    if system is None and any(words in text for words in _HOME):
        return RunError(
            "This user has no home folder, where caches are kept.",
            "Set HOME, or ERASE_CACHE and HF_HOME, to a folder that may be written to.",
        )
    if system is not None and system.errno in _ERRNO:
        return _explained_system(system)
    if error.__cause__ is not None:
        return explained(error.__cause__)
    return None


def _explained_system(error: OSError) -> EraseError:
    if error.errno == errno.ENOENT and not _has_working_directory():
        return RunError("The working directory was deleted.", "Change into a folder that is there.")
    why, remedy = _ERRNO[error.errno or 0]
    where = error.filename2 or error.filename
    if where is None:
        return RunError(f"{why[0].upper()}{why[1:]}.", remedy)
    return RunError(f"{os.fsdecode(where)} cannot be used: {why}.", remedy)


def _has_working_directory() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _said(error: BaseException) -> str:
    """The library's own words in brackets, if they are short: they hold the number of bytes."""
    lines = str(error).strip().splitlines()
    if not lines:
        return ""
    asked = re.search(r"[Tt]ried to allocate [\d.]+ ?\w+", lines[0])
    text = asked[0].lower() if asked else lines[0]
    return f" ({text[:120].rstrip('. ')})"
