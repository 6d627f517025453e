"""`erase compare`: methods side by side."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from erase.cli.command import Group, PathType, option
from erase.cli.completion import complete
from erase.cli.early import (
    check_attacks,
    check_classifier_metrics,
    check_device_name,
    check_methods,
    check_model,
)
from erase.cli.options import config_options, device_option, names_of, settings_option
from erase.config.compare import CompareConfig, CompareDiffusionConfig, settings_by_line
from erase.config.families import CLASSIFIER, TEXT_TO_IMAGE
from erase.config.resolve import resolve

OUTPUT = option("--output", type=PathType(), required=True, help="Result folder.")


@click.group(cls=Group)
def compare() -> None:
    """Compare unlearning methods on the same model and the same forget sets."""


@compare.command()
@OUTPUT
@option(
    "--forget",
    "specs",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="What to forget (see `erase classifier`); may be given several times.",
)
@option(
    "--methods",
    default="all",
    help="Comma-separated methods, or `all`; METHOD+dual adds DualOptim (an optimizer for each"
    " loss), lur+trim trimming (small weights are dropped first), lur+fixed the paper's α = 0.01,"
    " METHOD@NAME=VALUE@… fixes"
    " settings for one line.",
    shell_complete=complete("methods", CompareConfig),
)
@option("--alphas", metavar="A,B,…", help="Also run LUR at these α, and plot the gap over them.")
@device_option
@option(
    "--dry-run",
    is_flag=True,
    help="Print the runs, what is there of them, time and disk, and what is missing; touch"
    " nothing.",
)
@config_options(CompareConfig, listed=frozenset({"metrics"}))
@settings_option(
    "METHOD.NAME=VALUE",
    "A setting of one method, or of its run (retrain.lr_scheduler=cosine); it is not searched.",
)
def classifier(
    output: Path,
    specs: tuple[str, ...],
    methods: str,
    alphas: str | None,
    device: str | None,
    dry_run: bool,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Compare classifier unlearning methods: UA, RA, TA, MIA, Avg. Gap, ToW and run time.

    Every trial draws one forget set that all methods share, and trains its own Retrain. Started
    again with the same --output, it goes on where it was.

    \b
    erase compare classifier --dataset digits --forget random:10% --forget class:3 \\
        --trials 3 --search 20 --jobs 2 --output runs/compare
    """
    given["metrics"] = names_of(given["metrics"])
    config = resolve(CompareConfig, given, None).replace(settings=settings_by_line(settings))
    check_methods(methods, {CLASSIFIER})
    check_classifier_metrics(config.metrics)
    check_device_name(device)
    if dry_run:
        from erase.comparison.dry_run import plan_classifier

        lines = plan_classifier(
            config, output, specs, methods=methods, alphas=alphas, device=device
        )
        click.echo("\n".join(lines))
        return
    from rich.console import Console

    from erase.comparison.classifier import compare_classifier
    from erase.comparison.entries import slug

    compare_classifier(
        config,
        output,
        specs,
        methods=methods,
        alphas=alphas,
        device=device,
        progress=partial(click.echo, err=True),
        show=Console().print,
    )
    for spec in specs:
        folder = output / slug(spec)
        click.echo(
            f"Report: {folder / 'report.html'} (table.csv, table.md, results.json beside it)"
        )


@compare.command()
@OUTPUT
@option(
    "--methods",
    default="all",
    help="Comma-separated methods, or `all`; METHOD@NAME=VALUE@… fixes settings for one line.",
    shell_complete=complete("methods", CompareDiffusionConfig),
)
@settings_option(
    "OWNER.NAME=VALUE",
    "A setting of one method, or an option of its `erase concept` run (esd.guidance=2); of an"
    " attack (relearn.steps=0,25,50); of the suite or a metric (emoji.forgotten=24).",
)
@device_option
@option(
    "--dry-run",
    is_flag=True,
    help="Print the runs, what is there of them, time and disk, and what is missing; touch"
    " nothing.",
)
@config_options(
    CompareDiffusionConfig,
    listed=frozenset({"attacks"}),
    required=frozenset({"model", "concept"}),
)
def diffusion(
    output: Path,
    methods: str,
    settings: tuple[str, ...],
    device: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Compare unlearning methods on a text-to-image model: the suite's metrics, seconds, memory.

    The images of each concept are rendered once and shared by all methods; each method runs in a
    process of its own through `erase concept`. Started again with the same --output, it goes on
    where it was.

    \b
    erase compare diffusion --model mini-emoji --concept cat --concept "flat style" \\
        --concept "cat, dagger" --methods lur,lur-b,salun --trials 2 --output runs/compare
    """
    given["attacks"] = names_of(given["attacks"])
    config = resolve(CompareDiffusionConfig, given, None)
    check_methods(methods, {TEXT_TO_IMAGE})
    check_attacks(config.attack_names)
    check_device_name(device)
    check_model(config.model)
    if dry_run:
        from erase.comparison.dry_run import plan_diffusion

        chosen = plan_diffusion(config, output, methods=methods, settings=settings, device=device)
        click.echo("\n".join(chosen))
        return
    from rich.console import Console

    from erase.comparison.diffusion import compare_diffusion

    compare_diffusion(
        config,
        output,
        methods=methods,
        settings=settings,
        device=device,
        progress=partial(click.echo, err=True),
        show=Console().print,
    )
    click.echo(f"Report: {output / 'report.html'}; beside it table.csv, table.md, results.json")
