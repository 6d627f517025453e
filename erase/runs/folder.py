"""The run folder: who may write into it, and what resuming it asks for."""

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from erase.config.base import Config
from erase.config.replay import upgraded
from erase.errors import InputError
from erase.files import atomic_directory, read_json, read_yaml
from erase.runs.record import RECORD

CONFIG = "config.yaml"
LOCK = ".lock"
RUN_CONTROL = frozenset(
    {
        *("checkpointing_steps", "checkpoints_total_limit", "report_to"),
        *("validation_prompts", "validation_steps"),
    }
)
"""Settings that may differ between a run and its resumption: they do not change the result."""
OWN = (
    *("data", "latents.safetensors", "log.jsonl", "README.md", "checkpoint-*", "evaluation-*"),
    *("evaluation", "model_index.json", "model.safetensors", "model.json", "forget.json"),
    *("lora", "validation", "metrics.json", "tensorboard", ".pipeline", ".*partial-*", ".*old-*"),
)
"""What runs leave in their folder, beside the parts that `model_index.json` names."""


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what a run ends with."""
    return {k: v for k, v in config.to_dict().items() if k not in RUN_CONTROL}


def open_run_folder(
    folder: Path,
    config: Config,
    *,
    kind: str,
    overwrite: bool,
    resume: str | None,
    facts: Mapping[str, Any] | None = None,
    inputs: Iterable[str | Path | None] = (),
) -> bool:
    """Check that a run may use `folder`; return whether it continues an earlier run.

    Changes nothing on disk.

    Args:
        kind: the run's kind, as its record names it; only a run of the same kind is overwritten.
        overwrite: whether a run in the folder may be replaced.
        resume: `latest`, a checkpoint, or None.
        facts: what else must be as it was for a run to be continued, as its record holds it;
            None leaves that open.
        inputs: files and folders that the run reads: none may lie in a folder to be overwritten.

    Raises InputError for a folder that holds something else, settings or facts that differ, or a
    checkpoint to resume from where there is no run.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", "Give another --output.")
    held = folder.exists() and any(
        item.name != LOCK and ".partial-" not in item.name for item in folder.iterdir()
    )
    if not held:
        if resume not in (None, "latest"):
            raise InputError(
                f"There is no run in {folder} to continue from {resume}.",
                "Give the --output of the run that the checkpoint belongs to.",
            )
        return False
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    mine = record.get("kind") == kind
    if resume is not None:
        if not mine:
            raise InputError(
                f"{folder} holds no {kind} run to resume.",
                "Give the --output of an interrupted run, or leave out --resume-from-checkpoint.",
            )
        if not (folder / CONFIG).is_file():  # killed before it had done anything
            return False
        _check_same(folder, deciding(config), upgraded(read_yaml(folder / CONFIG)), RUN_CONTROL)
        if facts is not None:
            _check_same(folder, facts, record.get("facts", {}))
        return True
    if not overwrite:
        raise InputError(
            f"{folder} is not empty.",
            "Give another --output, --resume-from-checkpoint latest, or --overwrite.",
        )
    if not mine:
        raise InputError(
            f"{folder} is no erase run of this kind, so --overwrite does not touch it.",
            "Give another --output, or empty the folder yourself.",
        )
    for path in inputs:
        if path and Path(path).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{path} lies in {folder}, which --overwrite would delete.",
                "Give another --output.",
            )
    return False


def _check_same(
    folder: Path,
    now: Mapping[str, Any],
    before: Mapping[str, Any],
    free: frozenset[str] = frozenset(),
) -> None:
    for name in sorted({*before, *now} - free):
        if before.get(name) != now.get(name):
            raise InputError(
                f"The run in {folder} was started with {name} = {_short(before.get(name))}, not"
                f" {_short(now.get(name))}.",
                f"Resume with what it was started with (--config {folder / CONFIG}), or start"
                " anew in another --output.",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` is complete."""
    path = folder / RECORD
    return path.is_file() and read_json(path).get("status") == "finished"


def clear_run_folder(folder: Path) -> None:
    """Make the folder, or remove what an earlier run left in it; nothing else in it is touched.

    Call it after `open_run_folder` allowed it. The record goes last, so that a folder whose
    clearing was interrupted is still known as a run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "model_index.json"
    parts = tuple(read_json(index)) if index.is_file() else ()
    for pattern in (*parts, *OWN, CONFIG, RECORD):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def replacing_parts(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success each of its items replaces that of the run folder."""
    held = folder / ".pipeline"
    with atomic_directory(held) as aside:
        yield aside
    for part in sorted(held.iterdir()):
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    held.rmdir()


def lock_run_folder(folder: Path) -> IO[str]:
    """Hold the folder for this process until the returned file is closed or the process ends.

    Raises InputError while another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / LOCK).open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise InputError(
            f"Another process is writing into {folder}.", "Wait for it, or give another --output."
        ) from None
    return handle
