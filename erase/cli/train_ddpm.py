"""`erase train ddpm`: a class-conditional diffusion model of labelled images."""

from pathlib import Path
from typing import Any

import click

from erase.cli.command import command
from erase.cli.early import check_device_name, check_output
from erase.cli.options import config_options, run_options
from erase.config.ddpm import DDPMConfig
from erase.config.resolve import resolve
from erase.runs.processes import Distributed


@command("ddpm")
@run_options
@config_options(DDPMConfig, skip=frozenset({"method"}))
def ddpm(
    output: Path,
    config: Path | None,
    overwrite: bool,
    resume: str | None,
    device: str | None,
    **given: Any,
) -> None:
    """Train a class-conditional DDPM with a null class, for classifier-free guidance.

    The defaults are those of the published CIFAR-10 model (800,000 steps, for a GPU); digits have
    their own, which take minutes on a CPU. --without leaves a class out: the Retrain reference.

    \b
    erase train ddpm --dataset digits --output runs/digits-ddpm
    erase train ddpm --dataset cifar10 --data-dir DATA --mixed-precision bf16 --output runs/ddpm
    erase train ddpm --dataset cifar10 --data-dir DATA --without dog --output runs/ddpm-no-dog
    """
    resolved = resolve(DDPMConfig, given, config)
    check_device_name(device)
    check_output("train ddpm", output, resolved, overwrite=overwrite, resume=resume)
    from erase.training.ddpm import train_ddpm

    folder = train_ddpm(resolved, output, overwrite=overwrite, resume=resume, device=device)
    if Distributed.launched().is_main:
        click.echo(f"Saved {folder}: a diffusers-style folder that renders by class name.")
