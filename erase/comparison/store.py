"""What a comparison keeps on disk: each result under a fingerprint of all that changes it.

A comparison that was killed therefore goes on where it was, and never mixes two settings.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import read_json, write_json, write_text
from erase.runs.processes import Distributed
from erase.runs.record import versions

Result = dict[str, Any]


def check_alone() -> None:
    """InputError under `accelerate launch` with several processes: a comparison is one."""
    if Distributed.launched().count > 1:
        raise InputError(
            "erase compare is one process, which starts others itself.",
            "Run it without accelerate launch; --jobs N runs several classifiers at a time.",
        )


def stored(path: Path, key: str) -> Result | None:
    """The result in a file; None when there is none, or one of another fingerprint."""
    if not path.is_file():
        return None
    content: Result = read_json(path)
    return content if content.get("fingerprint") == key else None


def cached(path: Path, key: str, make: Callable[[], Result]) -> Result:
    """The result in a file if it has this fingerprint; else a new one, which is written there."""
    content = stored(path, key)
    if content is None:
        content = {"fingerprint": key, **make()}
        write_json(path, content)
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
