"""The run folder: who may write into it, and what resuming it asks for."""

import shutil
from pathlib import Path
from typing import Any

from erase.config import Config, read_yaml
from erase.errors import InputError
from erase.record import RECORD, read_json

CONFIG = "config.yaml"
RUN_CONTROL = frozenset({"checkpointing_steps", "checkpoints_total_limit", "report_to"})
"""Settings that may differ between a run and its resumption: they do not change the result."""


def open_run_folder(folder: Path, config: Config, *, overwrite: bool, resume: bool) -> bool:
    """Check that a run may use `folder`; return whether it continues an earlier run.

    Changes nothing on disk. Raises InputError for a folder that holds something, unless it is to
    be resumed with the same settings, or it is a run folder to overwrite.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", "Give another --output.")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if resume:
        return _check_same(folder, config)
    if not overwrite:
        raise InputError(
            f"{folder} is not empty.",
            "Give another --output, --resume-from-checkpoint latest, or --overwrite.",
        )
    if not (folder / CONFIG).is_file() and not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} is no erase run, so --overwrite does not touch it.",
            "Give another --output, or empty the folder yourself.",
        )
    return False


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what a run ends with."""
    return {k: v for k, v in config.to_dict().items() if k not in RUN_CONTROL}


def _check_same(folder: Path, config: Config) -> bool:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder} holds no run to resume: there is no {CONFIG}.",
            "Give the --output of an interrupted run, or leave out --resume-from-checkpoint.",
        )
    before, now = read_yaml(path), deciding(config)
    changed = sorted(
        name for name in {*before, *now} - RUN_CONTROL if before.get(name) != now.get(name)
    )
    if changed:
        name = changed[0]
        raise InputError(
            f"The run in {folder} was started with {name} = {before.get(name)!r}, not"
            f" {now.get(name)!r}.",
            f"Resume with its own settings: --config {path}.",
        )
    return True


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` is complete."""
    path = folder / RECORD
    return path.is_file() and read_json(path).get("status") == "finished"


def clear_run_folder(folder: Path) -> None:
    """Remove what an earlier run left; call after `open_run_folder` allowed it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
