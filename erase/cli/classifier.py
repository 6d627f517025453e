"""`erase classifier`: make a classifier forget samples or classes."""

from pathlib import Path
from typing import Any

import click

from erase.cli.command import command
from erase.cli.early import check_classifier, check_output
from erase.cli.options import (
    config_options,
    methods_epilog,
    names_of,
    run_options,
    settings_options,
)
from erase.config.classifier import ClassifierConfig
from erase.config.families import CLASSIFIER
from erase.config.resolve import given_settings, resolve_run


@command(epilog=methods_epilog(CLASSIFIER))
@run_options
@config_options(ClassifierConfig, listed=frozenset({"metrics"}))
@settings_options(
    alpha="LUR's inner step size α (a number, or auto: from the curvature), or the method's own α.",
    forget_weight="Weight λ of the forget loss, where a method has one.",
    trim="LUR: first trim, keeping this share of the weights, e.g. 0.97.",
)
def classifier(
    output: Path,
    config: Path | None,
    overwrite: bool,
    resume: str | None,
    device: str | None,
    alpha: str | None,
    forget_weight: str | None,
    trim: str | None,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Make a classifier forget training samples or whole classes, and measure it.

    Leaves the model, the forget indices and UA, RA, TA and MIA-efficacy in --output.

    \b
    erase train classifier --dataset digits --output runs/digits
    erase classifier --model runs/digits --forget random:10% --method lur --output runs/lur
    """
    options = {"alpha": alpha, "forget_weight": forget_weight, "trim": trim}
    pairs = given_settings(settings, options)
    given["metrics"] = names_of(given["metrics"])
    resolved, replay = resolve_run(ClassifierConfig, given, pairs, config)
    check_classifier(resolved, device)
    check_output("classifier", output, resolved, overwrite=overwrite, resume=resume)
    from erase.training.classifier_measures import measured_lines
    from erase.training.classifier_runs import erase_classifier

    folder, scores = erase_classifier(
        resolved, output, replay=replay, overwrite=overwrite, resume=resume, device=device
    )
    click.echo(
        f"Saved {folder}: UA {scores.ua:.2f}, RA {scores.ra:.2f}, TA {scores.ta:.2f},"
        f" MIA {scores.mia:.2f} (percent)."
    )
    for name, value in (scores.mia_by or {}).items():
        click.echo(f"  MIA by {name}: {value:.2f}")
    for line in measured_lines(folder, resolved.metrics):
        click.echo(f"  {line}")
