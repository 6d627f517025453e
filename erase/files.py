"""Small files, read and written so that a crash leaves the old or the new one; hashes of content.

Everything is JSON, YAML or text; nothing here reads or writes pickle. What a file may hold is
decided in `erase.reading`.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from erase.errors import InputError
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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old or the new content, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync_directory(path.parent)


def write_text(path: Path, content: str) -> None:
    """Atomically write UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Atomically write JSON, two-space indented; NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
    for left in path.parent.glob(f".{path.name}.*-*"):
        kind, _, process = left.name.removeprefix(f".{path.name}.").partition("-")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            path.rename(old)
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.rename(path)
        _sync_directory(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
