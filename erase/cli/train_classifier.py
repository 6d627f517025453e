"""`erase train classifier`: train the model that a classifier experiment starts from."""

from pathlib import Path
from typing import Any, TypedDict

import click

from erase.cli.command import command
from erase.cli.early import check_device_name, check_output
from erase.cli.options import config_options, run_options
from erase.config.classifier import TrainConfig
from erase.config.resolve import resolve


class Accuracies(TypedDict):
    """Percentages."""

    train_accuracy: float
    test_accuracy: float


class Trained(TypedDict):
    """What `model.json` says of a classifier that was trained."""

    facts: Accuracies


@command(name="classifier")
@run_options
@config_options(TrainConfig)
def classifier(
    output: Path,
    config: Path | None,
    overwrite: bool,
    resume: str | None,
    device: str | None,
    **given: Any,
) -> None:
    """Train a classifier from scratch, or import another program's weights.

    \b
    erase train classifier --dataset digits --output runs/digits
    erase train classifier --dataset cifar10 --data-dir DATA --arch resnet18 --output runs/r18
    erase train classifier --dataset cifar10 --data-dir DATA --arch resnet20 \\
        --weights resnet20.th --output runs/r20
    """
    resolved = resolve(TrainConfig, given, config)
    check_device_name(device)
    check_output("train classifier", output, resolved, overwrite=overwrite, resume=resume)
    from erase.files import read_json
    from erase.training.classifier_runs import train_original

    folder = train_original(resolved, output, overwrite=overwrite, resume=resume, device=device)
    facts = read_json(folder / "model.json", Trained)["facts"]
    click.echo(
        f"Saved {folder}: {facts['train_accuracy']:.2f}% on its training images,"
        f" {facts['test_accuracy']:.2f}% on test images."
    )
