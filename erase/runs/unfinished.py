"""Runs that were interrupted: recognised where their result is wanted, with how they go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase.errors import InputError
from erase.files import read_yaml
from erase.runs.checkpoint import list_checkpoints
from erase.runs.folder import CONFIG
from erase.runs.record import read_record

COMMANDS = {
    "concept": "concept",
    "classifier": "classifier",
    "train ddpm": "train ddpm",
    "train classifier": "train classifier",
}
"""The command that makes a run of each kind; one of kind `concept` may also be of `erase class`."""
REPEATED = ("evaluation", "attack", "compare classifier", "compare diffusion")
"""Results that go on when their command is given again."""


def resume_command(folder: Path, record: Mapping[str, Any] | None = None) -> str | None:
    """The command that goes on with the run in a folder; None where nothing says what it is."""
    kind = (read_record(folder) if record is None else record).get("kind")
    if kind not in COMMANDS or not (folder / CONFIG).is_file():
        return None
    command = COMMANDS[kind]
    if kind == "concept" and "target" in read_yaml(folder / CONFIG):
        command = "class"
    place, config = shlex.quote(str(folder)), shlex.quote(str(folder / CONFIG))
    return f"erase {command} --config {config} --output {place} --resume-from-checkpoint latest"


def check_finished(folder: Path) -> None:
    """InputError for the folder of a run, evaluation or comparison that is not finished.

    Folders of anything else pass.
    """
    record = read_record(folder)
    kind, status = record.get("kind"), record.get("status")
    if kind not in (*COMMANDS, *REPEATED) or status == "finished":
        return
    ended = {"failed": "failed", "interrupted": "was interrupted"}.get(
        str(status), "was interrupted, or still goes on"
    )
    message = f"The run in {folder} is not finished: it {ended}"
    if kind in COMMANDS and (checkpoints := list_checkpoints(folder)):
        message += f"; its last checkpoint is {checkpoints[-1].name}"
    if status == "failed" and record.get("error"):
        message += f" ({record['error']})"
    again = resume_command(folder, record) or record.get("command")
    raise InputError(f"{message}.", f"Go on with it: {again}" if again else "Run it again.")
