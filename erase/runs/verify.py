"""Check what a command left against the hashes that it wrote: a folder whole, or an exported file.

Imports no torch.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import hash_file
from erase.reading import parse_json
from erase.runs.manifest import MANIFEST, entries
from erase.runs.record import RECORD, read_record

MISSING, CHANGED, UNKNOWN = "missing", "changed", "unknown"
LONGEST_HEADER = 100_000_000
"""The safetensors library refuses longer ones."""
OPEN = (RECORD, "config.yaml", "log.jsonl")
"""What the manifest of a run holds only once the run has finished."""


@dataclass(frozen=True)
class Finding:
    """A file that is not as it was written."""

    state: str
    """`missing`, `changed`, or `unknown` for one that the command did not leave."""
    path: Path


@dataclass(frozen=True)
class Verified:
    """What a check came to."""

    findings: list[Finding]
    files: int
    """How many files were compared with their hash."""
    unfinished: list[Path]
    """Folders whose command has not finished: their last files have no hash yet."""


def verify(path: Path) -> Verified:
    """Check a folder with everything in it, or one exported safetensors file.

    Raises:
        InputError: there is nothing to compare with.
    """
    if path.is_file():
        stated = _stated_hash(path)
        if stated is None:
            raise InputError(
                f"{path} has no hash in its header.",
                "Files that erase export writes have one (modelspec.hash_sha256).",
            )
        changed = _hash_of_tensors(path) != stated
        return Verified([Finding(CHANGED, path)] if changed else [], 1, [])
    if not path.is_dir():
        raise InputError(f"There is no folder or file {path}.", "Check the path.")
    if not (path / MANIFEST).is_file() and not read_record(path).get("manifest"):
        raise InputError(
            f"{path} has no {MANIFEST}, so nothing says how its files were.",
            "Give a folder that erase wrote, or an exported .safetensors file; earlier versions"
            " left no hashes.",
        )
    result = Verified([], 0, [])
    return _verify_folder(path, result)


def _verify_folder(folder: Path, result: Verified) -> Verified:
    known = entries(folder)
    record = read_record(folder)
    finished = not record or record.get("status") == "finished"
    if not finished:
        result.unfinished.append(folder)
    files = result.files
    passed = set() if finished else set(OPEN)
    for name, sha256 in sorted(known.items()):
        file = folder / name
        if name in passed:
            continue
        files += 1
        if not file.is_file():
            result.findings.append(Finding(MISSING, file))
        elif hash_file(file) != sha256:
            result.findings.append(Finding(CHANGED, file))
    if not known:
        result.findings.append(Finding(MISSING, folder / MANIFEST))
    result = Verified(result.findings, files, result.unfinished)
    for item in _unlisted(folder, folder, set(known) | passed | {MANIFEST}):
        if (item / MANIFEST).is_file():
            result = _verify_folder(item, result)
        else:
            result.findings.append(Finding(UNKNOWN, item))
    return result


def _unlisted(folder: Path, inside: Path, known: set[str]) -> Iterator[Path]:
    """Files that are not known, folders without a known one, and folders with own manifests."""
    for path in sorted(inside.iterdir()):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or name in known:
            continue
        if path.is_dir() and not path.is_symlink():
            if (path / MANIFEST).is_file():
                yield path
                continue
            if any(other.startswith(f"{name}/") for other in known):
                yield from _unlisted(folder, path, known)
                continue
            if inner := [item.parent for item in sorted(path.rglob(MANIFEST))]:
                yield from (item for item in inner if not set(item.parents) & set(inner))
                continue
        yield path


def check_file(path: Path) -> None:
    """InputError for a safetensors file whose tensors no longer have the hash in its header.

    A file without a hash there is taken as it is.
    """
    stated = _stated_hash(path)
    if stated and _hash_of_tensors(path) != stated:
        raise InputError(
            f"{path} was changed after it was written: its tensors have another hash than its"
            " header says.",
            "Export it again, or restore it from a copy.",
        )


def _stated_hash(path: Path) -> str | None:
    header = _header(path)
    data = header.get("__metadata__") if header else None
    stated = data.get("modelspec.hash_sha256") if isinstance(data, dict) else None
    return stated.removeprefix("0x").lower() if isinstance(stated, str) else None


def _header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file; None for a file that has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, LONGEST_HEADER):
            return None
        try:
            header = parse_json(file.read(length).decode())
        except ValueError:
            return None
    return header if isinstance(header, dict) else None


def _hash_of_tensors(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        return hashlib.file_digest(file, "sha256").hexdigest()
