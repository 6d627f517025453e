"""`record.json`: what ran, from which sources, on which versions, how long, how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import erase
from erase.files import json_text, read_json, write_json, write_text
from erase.runs.manifest import MANIFEST, write_manifest
from erase.runs.manifest import RECORD as RECORD

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "nudenet",
    "torchmetrics",
    "numpy",
    "scikit-learn",
)


class Target(TypedDict, total=False):
    """What was erased, or what an evaluation looks for."""

    suite: str | None
    concepts: list[str] | None
    suites: dict[str, str | None] | None
    pairs: dict[str, list[str]] | None


class Request(Target, total=False):
    """What an earlier run of a chain erased."""

    method: str | None


class Original(TypedDict, total=False):
    """The model before the first run of a chain."""

    model: str | None
    revision: str | None
    fingerprint: str | None


class Baseline(TypedDict, total=False):
    """What an evaluation compares with."""

    model: str | None
    reason: str
    images_fingerprint: str
    images_folder: str


class Record(TypedDict, total=False):
    """What readers of a record rely on; it holds more."""

    status: str
    kind: str
    command: str
    started: str
    finished: str
    error: str
    resumed: int
    wall_time_s: float
    train_seconds: float
    peak_memory_bytes: int
    device_peak_memory_bytes: int | None
    versions: dict[str, str]
    facts: dict[str, Any]
    manifest: str
    changed_on_resume: list[dict[str, Any]] | None
    target: Target | None
    forgotten_before: list[Request] | None
    original: Original | None
    method: str
    trained_parts: list[str]
    model: str
    base_model: str | None
    base_revision: str | None
    base_fingerprint: str | None
    fingerprint: str
    baseline: Baseline | None
    deviations: dict[str, list[Any]] | None
    observers_sha256: dict[str, Any] | None
    prompts_unusable: dict[str, Any] | None


def versions() -> dict[str, str]:
    """Versions of erase, Python and the libraries that can change a result."""
    result = {"erase": erase.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    return result


def git_commit() -> str | None:
    """Commit of the source tree that erase runs from, `+dirty` when it has changes; else None."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head, status = (
            subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+dirty" if status else "")


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_peak(device: torch.device) -> int | None:
    """Most memory that tensors took on a GPU, in bytes; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def threads() -> int | None:
    """How many threads torch computes with; None while it is not loaded."""
    loaded = sys.modules.get("torch")
    return loaded.get_num_threads() if loaded else None


def now() -> str:
    """Current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(folder: Path) -> dict[str, Any]:
    """The record that a folder holds, empty when it has none; InputError for a broken one."""
    path = folder / RECORD
    return dict(read_json(path, Record)) if os.path.lexists(path) else {}


class RunRecord:
    """`record.json` of a run folder: status, command, versions, git commit, times, memory.

    The status goes `running` → `finished`, `failed` or `interrupted`. A resumed run keeps the first
    record's start and adds its wall time to what was spent before.

    Args:
        folder: of the run.
        own: the files and folders there that are the command's, for the manifest of a finished one.
        fields: of the command.
    """

    def __init__(
        self, folder: Path, own: Callable[[], Iterable[Path]] = tuple, **fields: Any
    ) -> None:
        self.path = folder / RECORD
        self._own = own
        previous = read_record(folder)
        self._before = float(previous.get("wall_time_s", 0.0))
        self._start = time.monotonic()
        self.content: dict[str, Any] = {
            "status": "running",
            "command": " ".join(sys.argv),
            "started": previous.get("started", now()),
            "resumed": int(previous.get("resumed", -1)) + 1,
            "versions": versions(),
            "threads": threads(),
            "git_commit": git_commit(),
            **fields,
        }
        self.update()

    def update(self, **fields: Any) -> None:
        """Add fields and write the record."""
        self._add(fields)
        write_json(self.path, self.content)

    def _add(self, fields: dict[str, Any]) -> None:
        self.content.update(fields)
        self.content["wall_time_s"] = round(self._before + time.monotonic() - self._start, 3)
        self.content["peak_memory_bytes"] = peak_memory()

    def finish(self, **fields: Any) -> None:
        """Write the manifest of everything that the command left, then mark the run finished."""
        self._add({"status": "finished", "finished": now(), "manifest": MANIFEST, **fields})
        text = json_text(self.content)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        # The record comes last: a run that is killed in here is not finished.
        write_manifest(self.path.parent, self._own(), {RECORD: sha256})
        write_text(self.path, text)

    def fail(self, reason: str) -> None:
        """Mark the run failed, with the reason."""
        self.update(status="failed", finished=now(), error=reason)

    def interrupt(self, reason: str) -> None:
        """Mark the run as ended from outside: it may go on later."""
        self.update(status="interrupted", finished=now(), error=reason)
