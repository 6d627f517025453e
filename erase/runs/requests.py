"""What a model was made to forget, request by request: a run may go on from another run's model.

Every record keeps the requests before its own (`forgotten_before`, the first one first) and the
model that the first one was made from (`original`), so that a run's folder says all of it alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.reading import expanded
from erase.runs.folder import CONFIG
from erase.runs.manifest import MANIFEST
from erase.runs.record import read_record


@dataclass(frozen=True)
class Forgotten:
    """A concept that a model was made to forget; of a pair, the thing and what it was part of."""

    name: str
    suite: str | None = None
    pair: tuple[str, str] | None = None


def requests(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every request of a record, its own last: entries of `target`, and the `method`.

    Empty for a record of a run that made nothing forget.
    """
    own = record.get("target") or {}
    found = list(record.get("forgotten_before") or ())
    if own.get("concepts"):
        found.append({**own, "method": record.get("method")})
    return found


def forgotten(record: Mapping[str, Any]) -> list[Forgotten]:
    """All that a model was made to forget, the first request first, each concept once."""
    found: dict[str, Forgotten] = {}
    for request in requests(record):
        suites, pairs = request.get("suites") or {}, request.get("pairs") or {}
        for name in request.get("concepts") or ():
            thing, within = pairs.get(name) or (None, None)
            pair = (thing, within) if thing and within else None
            suite = suites.get(name, request.get("suite"))
            found.setdefault(name, Forgotten(name, suite, pair))
    return list(found.values())


def original(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model before the first request: `model`, `revision`, `fingerprint`; None if unknown."""
    if first := record.get("original"):
        return dict(first)
    if record.get("base_model") is None:
        return None
    return {name: record.get(f"base_{name}") for name in ("model", "revision", "fingerprint")}


def forgotten_before(model: str) -> list[Forgotten]:
    """What a run's model was made to forget; nothing for any other model.

    Raises InputError for a record that is broken.
    """
    return forgotten(read_record(expanded(model)))


def carried_on(folder: Path) -> dict[str, Any]:
    """The entries of the record of a run that goes on from the model of a folder.

    They are empty where nothing was forgotten before.
    """
    record = read_record(folder)
    earlier = requests(record)
    return {"forgotten_before": earlier, "original": original(record)} if earlier else {}


def lost_record(folder: Path) -> str | None:
    """A line about the folder of a run whose record is gone; None for any other folder."""
    left = [name for name in (MANIFEST, CONFIG) if (folder / name).is_file()]
    if not left or read_record(folder):
        return None
    return (
        f"{folder} holds {left[0]} of a run of erase and no record.json: what was forgotten before"
        " is not known, so it may be retained, and no evaluation will ask for it; put the record"
        " back, or name it with --target when you evaluate"
    )
