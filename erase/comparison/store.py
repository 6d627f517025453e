"""What a comparison keeps on disk: each result under a fingerprint of all that changes it.

A comparison that was killed therefore goes on where it was, and never mixes two settings.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from erase.errors import InputError
from erase.files import fingerprint, read_json, write_json, write_text
from erase.reading import fitted
from erase.runs.processes import Distributed
from erase.runs.record import versions

Result = dict[str, Any]
SHA256 = "sha256"


def check_alone() -> None:
    """InputError under `accelerate launch` with several processes: a comparison is one."""
    if Distributed.launched().count > 1:
        raise InputError(
            "erase compare is one process, which starts others itself.",
            "Run it without accelerate launch; --jobs N makes several runs at a time.",
        )


class Judged(TypedDict):
    """What the result of a classifier says that did not fail."""

    scores: dict[str, float | None]


def stored(path: Path, key: str) -> Result | None:
    """The result in a file; None when there is none, or one of another fingerprint.

    Raises InputError for a result that was changed: it no longer has the hash in the file.
    """
    if not os.path.lexists(path):
        return None
    content: Result = read_json(path)
    if content.get("fingerprint") != key:
        return None
    sha256 = content.pop(SHA256, None)  # results of earlier versions have none
    if sha256 not in (None, fingerprint(content)):
        raise InputError(
            f"{path} was changed after it was written.", "Delete it: its run is then repeated."
        )
    return content


def results(paths: Iterable[Path]) -> dict[Path, Result]:
    """The results that are there, those that failed among them."""
    return {path: read_json(path) for path in paths if path.is_file()}


def forget_failures(paths: Iterable[Path]) -> None:
    """Delete the results that failed, so that a comparison that is started again tries again."""
    for path, result in results(paths).items():
        if result.get("failed"):
            path.unlink()


def store(path: Path, content: Result) -> None:
    """Write a result with its own hash, for `stored`."""
    write_json(path, {**content, SHA256: fingerprint(content)})


def cached(path: Path, key: str, make: Callable[[], Result], shape: Any = Result) -> Result:
    """The result in a file if it has this fingerprint; else a new one, which is written there.

    `shape` is what a result has to be that did not fail; InputError names the file that has
    another.
    """
    content = stored(path, key)
    if content is not None and not content.get("failed"):
        fitted(content, shape, str(path))
    if content is None:
        content = {"fingerprint": key, **make()}
        store(path, content)
    return content


def library_versions(names: Sequence[str]) -> dict[str, str | None]:
    """Installed versions of those libraries, for fingerprints."""
    installed = versions()
    return {name: installed.get(name) for name in names}


def write_tables(folder: Path, csv: str, markdown: str, results: Mapping[str, Any]) -> None:
    """Write `table.csv`, `table.md` and `results.json`."""
    write_text(folder / "table.csv", csv)
    write_text(folder / "table.md", markdown)
    write_json(folder / "results.json", results)
