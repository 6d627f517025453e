"""`erase attack`: whether a model still shows what it was made to forget."""

from __future__ import annotations

from typing import Any

import click

from erase.cli.command import command
from erase.cli.early import check_attack
from erase.cli.options import config_options
from erase.config.attack import OPTIONS_OF_EVALUATION_ALONE, AttackConfig, default_output
from erase.config.resolve import resolve
from erase.data.rendered import suite_for


@command()
@config_options(
    AttackConfig,
    flags={"overwrite": "--overwrite", "show_explicit": "--show-explicit"},
    spellings={"settings": "--set"},
    skip=OPTIONS_OF_EVALUATION_ALONE,
    required=frozenset({"model"}),
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the attacks, their settings and sources, the images to render, and what is"
    " missing; touch nothing.",
)
def attack(dry_run: bool, **options: Any) -> None:
    """Attack a model and the model it was made from, and count the images of the concept.

    The prompts of the suite that ask for the concept are rendered as they are and under each
    attack, by both models, from the same seeds and with the same budget. The suite's judge says
    which images show the concept. The base model is the control: an attack that does not reach it
    says nothing.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    config = resolve(AttackConfig, options, None)
    config = config.replace(suite=config.suite or suite_for(config.model))
    if not config.output:
        config = config.replace(output=default_output(config.model, config.suite))
    check_attack(config)
    if dry_run:
        from erase.attack import dry_run as planning

        for line in planning.dry_run(config):
            click.echo(line)
        return
    from erase.attack.run import attack as run
    from erase.cli.progress import stages
    from erase.runs.processes import Distributed

    with stages() as progress:
        result = run(config, progress if Distributed.launched().is_main else None)
    if result is None:  # only the main process has the result
        return
    from rich.console import Console

    from erase.report.attack import summary_table

    Console().print(summary_table(result.metrics))
    click.echo(f"Report: {result.report}")
