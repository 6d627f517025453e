"""Small files, read and written so that a crash leaves the old or the new one; hashes of content.

Everything is JSON, YAML or text; nothing here reads or writes pickle.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from erase.errors import InputError


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


def json_text(content: Any) -> str:
    """JSON as `write_json` writes it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Atomically write JSON, two-space indented; NaN and infinities are refused (ValueError)."""
    write_text(path, json_text(content))


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError names the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist.", "Check the path; a finished run holds this file."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}).", "Restore it from the run that wrote it."
        ) from error


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line that a crash cut short is left out."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    # Not splitlines: JSON strings may hold other line ends than \n.
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # no line end follows: the write was cut short
                break
            raise InputError(
                f"{path}, line {number} is not JSON ({error}).", "Repair or delete the file."
            ) from error
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
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 (hex) over the names relative to `root` and the contents of files."""
    return fingerprint({str(path.relative_to(root)): hash_file(path) for path in sorted(paths)})


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError when it is missing, broken or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", "Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings.", "Write it as `name: value` lines.")
    return content
