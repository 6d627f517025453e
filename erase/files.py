"""Small files, read and written so that a crash leaves the old or the new one; hashes of content.

Everything is JSON, YAML or text; nothing here reads or writes pickle. What a file may hold is
decided in `erase.reading`.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, overload

from erase.errors import ENDING, EraseError, InputError, os_error
from erase.reading import (
    ROWS,
    YAML,
    ContentError,
    Shape,
    check_regular,
    fitted,
    parse_json,
    parse_yaml,
    read_text,
)

Content = dict[str, Any]
"""The shape of a file that holds names with values of any kind."""


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let what is inside finish before a signal ends the command."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into errors of the system that name no file, also where a library wraps them."""
    try:
        yield
    except EraseError:
        raise
    except Exception as error:
        system = os_error(error, path)
        if system is None or system is error:
            raise
        raise system from error


def partial_name(path: Path, kind: str = "partial") -> Path:
    """Where this process writes aside what is to become `path`: beside it, in at most 255 bytes."""
    stem = os.fsencode(path.name)[:200]
    return path.with_name(f".{os.fsdecode(stem)}.{kind}-{os.getpid()}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old or the new content, never a mixture.

    What a failed write left is removed; what killed processes left in the same folder is removed
    by the first write of the next process.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        aside = partial_name(path)
        try:
            with aside.open("wb") as file:
                _try_lock(file.fileno())  # released by the system when this process dies
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


_swept: set[tuple[int, int]] = set()


def _sweep(folder: Path) -> None:
    """Remove what processes that died left of single files in a folder; once in each process."""
    state = folder.stat()
    if (state.st_dev, state.st_ino) in _swept:
        return
    _swept.add((state.st_dev, state.st_ino))
    for left in folder.glob(".*.partial-*"):
        process = left.name.rpartition("-")[2]
        if process.isdigit() and int(process) != os.getpid() and not _alive(int(process)):
            _remove_unlocked(left)


def _remove_unlocked(file: Path) -> None:
    """Remove a file unless a process, perhaps of another machine, holds it."""
    with contextlib.suppress(OSError), file.open("r+b") as handle:
        if _try_lock(handle.fileno()):
            file.unlink()


def _try_lock(handle: int) -> bool:
    """Lock an open file; False where another process holds it or the disk knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: Path, content: str) -> None:
    """Atomically write UTF-8 text."""
    write_bytes(path, content.encode())


def json_text(content: Any) -> str:
    """JSON as `write_json` writes it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Atomically write JSON, two-space indented; NaN and infinities are refused (ValueError)."""
    write_text(path, json_text(content))


@overload
def read_json(path: Path, *, finite: bool = True) -> dict[str, Any]: ...
@overload
def read_json(path: Path, shape: type[Shape], *, finite: bool = True) -> Shape: ...
def read_json(path: Path, shape: Any = Content, *, finite: bool = True) -> Any:
    """The content of a JSON file.

    Args:
        path: of at most `erase.reading.SMALL` bytes.
        shape: what the content has to be, as for `erase.reading.fitted`; default: any object.
        finite: whether NaN and infinities are refused; the schedulers of some models have them.

    Raises:
        InputError: names the file that is missing, cannot be read, is no JSON or has another shape.
    """
    text = read_text(path)
    try:
        content = parse_json(text, finite=finite)
    except ContentError as error:
        raise InputError(
            f"{path} is not valid JSON: {error}.", "Restore it from the run that wrote it."
        ) from error
    return fitted(content, shape, str(path))


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


@overload
def read_jsonl(path: Path) -> list[dict[str, Any]]: ...
@overload
def read_jsonl(path: Path, shape: type[Shape]) -> list[Shape]: ...
def read_jsonl(path: Path, shape: Any = Content) -> Any:
    """Rows of a JSON-lines file, none when it is missing; InputError as for `read_json`.

    A last line that a crash cut short is left out.
    """
    rows: list[Any] = []
    if not os.path.lexists(path):
        return rows
    # Not splitlines: JSON strings may hold other line ends than \n.
    lines = read_text(path, ROWS).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = parse_json(line)
        except ContentError as error:
            if number == len(lines):  # no line end follows: the write was cut short
                break
            raise InputError(
                f"{path}, line {number} is not JSON: {error}.", "Repair or delete the file."
            ) from error
        rows.append(fitted(content, shape, f"{path}, line {number}"))
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Atomically write JSON lines."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _tidy(path: Path) -> None:
    """Undo what a process that died inside `atomic_directory(path)` left beside `path`."""
    start = partial_name(path).name.removesuffix(f"partial-{os.getpid()}")
    for left in path.parent.glob(f"{glob.escape(start)}*-*"):
        kind, _, process = left.name.removeprefix(start).partition("-")
        if kind not in ("partial", "old") or not process.isdigit() or _alive(int(process)):
            continue
        if kind == "old" and not path.exists():  # it died between the two renames
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success it is synced and renamed to `path`, replacing it.

    On an exception what was written aside is removed and `path` stays as it was. What a process
    that was killed in here left behind is tidied up by the next one.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path)
        aside = partial_name(path)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            yield aside
            for file in sorted(aside.rglob("*")):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            with uninterrupted():
                _put(aside, path)
            _sync_directory(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _put(aside: Path, path: Path) -> None:
    """Give a folder its name, in the place of the one that has it."""
    if not path.exists():
        aside.rename(path)
        return
    old = partial_name(path, "old")
    path.rename(old)
    aside.rename(path)
    shutil.rmtree(old)


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, is the folder or lies in it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def fingerprint(content: Any) -> str:
    """SHA-256 (hex) of JSON-serialisable content, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; InputError for a pipe or a device, which may never end."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 (hex) over the names relative to `root` and the contents of files."""
    return fingerprint({str(path.relative_to(root)): hash_file(path) for path in sorted(paths)})


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError when it is missing, broken or no mapping."""
    try:
        content = parse_yaml(read_text(path, YAML))
    except ContentError as error:
        raise InputError(f"{path} is not valid YAML: {error}.", "Correct the file.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings.", "Write it as `name: value` lines.")
    return fitted(content, Content, str(path))
