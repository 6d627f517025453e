"""Which device a command runs on: the one that was asked for, or the best that the machine has."""

from __future__ import annotations

import os

import click
import torch

from erase.runs.checks import check_device
from erase.runs.processes import Distributed


def choose_device(name: str | None = None) -> str:
    """The device that every command uses, for every command chosen in this one place.

    Args:
        name: what `--device` says. With None the choice is accelerate's: the machine's GPU if it
            has one, else the CPU. `accelerate launch --cpu` means the CPU.

    Raises InputError for a device that is not there, or that nothing can be read back from.
    """
    if name is None:
        name = _automatic()
    check_device(name)
    return name


def _automatic() -> str:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    if given := os.environ.get("ACCELERATE_TORCH_DEVICE"):
        return given
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def say_device(device: str, asked: str | None = None) -> None:
    """Print which device the command runs on, as its first line; only the main process prints.

    Args:
        device: as `choose_device` returned it.
        asked: what `--device` said; None where it was chosen.
    """
    launched = Distributed.launched()
    if not launched.is_main:
        return
    kind = torch.device(device).type
    text = device
    if kind == "cuda":
        text += f" ({torch.cuda.get_device_name(device)})"
    elif asked is None and kind == "cpu":
        text += " (no GPU was found)" if not torch.accelerator.is_available() else " (as launched)"
    if launched.count > 1:
        text += f", {launched.count} processes"
    click.echo(f"Device: {text}")
