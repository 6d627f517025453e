"""Crash-exact checkpoints: written aside, synced, renamed; safetensors and JSON only.

A checkpoint holds everything that a step depends on beyond (seed, step): weights, buffers, the
optimizer's and the moving average's state. No random state, for none is carried between steps.
Its manifest holds the hash of each file, its `state.json` the fingerprint of its run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

from erase.errors import InputError
from erase.files import atomic_directory, read_json, write_json
from erase.runs import manifest

if TYPE_CHECKING:  # looking for checkpoints needs no torch, which takes seconds to import
    from torch import Tensor
    from torch.optim import Optimizer

TENSORS = "state.safetensors"
META = "state.json"
NAME = re.compile(r"checkpoint-(\d+)")
LATEST, WHOLE = "latest", "latest-whole"


class State(TypedDict):
    """What every `state.json` says."""

    step: int


@dataclass(frozen=True)
class Checkpoint:
    """A training state: `step` optimizer steps are done."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    keep: int,
    run: str = "",
) -> Path:
    """Write `checkpoint-<step>`, then remove all but the newest `keep` (0 keeps all).

    `run` is the fingerprint of the run that it belongs to.
    """
    from safetensors.torch import save_file

    path = folder / f"checkpoint-{step}"
    with atomic_directory(path) as aside:
        save_file(_unshared(tensors), aside / TENSORS)
        write_json(aside / META, {"step": step, "run": run, **meta})
        manifest.note_files(aside, TENSORS, META)
    if keep:
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return path


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, copied where two share memory, which safetensors refuses."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        result[name] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return result


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    named = [(NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def find_checkpoint(folder: Path, which: str, run: str = "") -> Path | None:
    """The checkpoint to go on from, checked; None when the folder has none yet.

    Args:
        folder: the run's.
        which: `latest`; `latest-whole`, the newest that is not damaged; or a checkpoint's path.
        run: the run's fingerprint.

    Raises:
        InputError: the checkpoint is damaged, of another run, or not there; or none is whole.
    """
    if which not in (LATEST, WHOLE):
        for path in (Path(which), folder / which):
            if (path / META).is_file():
                check_checkpoint(path, run)
                return path
        raise InputError(
            f"{which} is not a checkpoint.",
            f"Give {LATEST}, {WHOLE} or a checkpoint-N folder of the run.",
        )
    checkpoints = list_checkpoints(folder)
    for path in reversed(checkpoints):
        try:
            check_checkpoint(path, run)
        except InputError as error:
            if which == LATEST:
                raise
            click.echo(f"Warning: {path.name} is passed over: {error.message}", err=True)
        else:
            return path
    if checkpoints:
        raise InputError(
            f"No checkpoint in {folder} is whole.", "Start anew with --overwrite, without resuming."
        )
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run's folder."""
    for path in list_checkpoints(folder):
        shutil.rmtree(path)


def check_checkpoint(path: Path, run: str) -> None:
    """InputError when a checkpoint is not as it was written, or belongs to another run.

    A checkpoint of an earlier version has neither hashes nor a fingerprint and is taken as it is.
    """
    try:
        _check_whole(path)
    except InputError as error:
        remedy = f"Give --resume-from-checkpoint {WHOLE} to go on from the newest whole one."
        raise InputError(error.message, remedy) from None
    if read_json(path / META).get("run", run) != run:
        raise InputError(
            f"{path} belongs to another run.", "Give a checkpoint of the run in --output."
        )


def _check_whole(path: Path) -> None:
    for name in (META, TENSORS):
        if not (path / name).is_file():
            raise InputError(f"{path / name} is missing.")
    content = read_json(path / META, State)
    step = content["step"]
    if step < 1:
        raise InputError(f"{path / META} says that {step} steps are done.")
    known = manifest.entries(path)
    if not {META, TENSORS} <= set(known) and (known or "run" in content):
        raise InputError(f"{path} has no whole manifest with the hashes of its files.")
    manifest.check(path)
    number = NAME.fullmatch(path.name)
    if number and step != int(number[1]):
        raise InputError(f"{path / META} says that {step} steps are done, not {number[1]}.")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; InputError when it is broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    meta: dict[str, Any] = dict(read_json(path / META, State))
    try:
        tensors = load_file(path / TENSORS)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is broken ({type(error).__name__}).", "Resume from an earlier checkpoint."
        ) from error
    return Checkpoint(meta.pop("step"), tensors, meta)


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and as JSON values.

    Dictionaries in it, as bitsandbytes has them, become names with dots.
    """
    from torch import Tensor

    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, entry in value.items():
                put(f"{name}.{key}", entry)
        elif isinstance(value, Tensor):
            tensors[name] = value
        else:
            values[name] = value

    for index, entries in state["state"].items():
        put(str(index), entries)
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Load what `pack_optimizer` gave into an optimizer over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *meta["values"].items()):
        index, *inside, name = key.split(".")
        entries = state.setdefault(int(index), {})
        for part in inside:
            entries = entries.setdefault(part, {})
        entries[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": meta["param_groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`, with it taken off."""
    start = f"{prefix}."
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}


def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy tensors by name, in place; InputError when names or shapes differ."""
    if set(target) != set(source) or any(target[k].shape != source[k].shape for k in target):
        raise InputError(
            "The checkpoint holds other parameters than this run trains.",
            "Resume with the settings that the run was started with.",
        )
    from torch import no_grad

    with no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
