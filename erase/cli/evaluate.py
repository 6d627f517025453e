"""`erase evaluate`: what a model still renders, and how well it renders the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from erase.cli.command import command
from erase.cli.early import check_evaluation
from erase.cli.options import config_options, names_of
from erase.config.evaluate import EvaluateConfig, default_output
from erase.config.resolve import resolve
from erase.data.rendered import suite_for

if TYPE_CHECKING:
    from erase.evaluation.run import EvaluationResult


@command()
@config_options(
    EvaluateConfig,
    flags={
        "no_baseline": "--no-baseline",
        "overwrite": "--overwrite",
        "show_explicit": "--show-explicit",
    },
    spellings={"settings": "--set"},
    listed=frozenset({"metrics"}),
    required=frozenset({"model"}),
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the protocol, the images to render, time and disk, and what is missing; touch"
    " nothing.",
)
def evaluate(dry_run: bool, **options: Any) -> None:
    """Render fixed-seed images from captions, and measure them and the base model's.

    Suite and protocol say what is rendered, how, and what is measured: for the digits, how often
    the forgotten concept is still recognised, how well the other classes are kept, and how far the
    images are from real ones. Every setting can be changed; the record says what was.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    options["metrics"] = names_of(options["metrics"])
    config = resolve(EvaluateConfig, options, None)
    config = config.replace(suite=config.suite or suite_for(config.model))
    if not config.output:
        config = config.replace(output=default_output(config.model, config.suite))
    check_evaluation(config)

    if dry_run:
        from erase.evaluation import dry_run as planning

        for line in planning.dry_run(config):
            click.echo(line)
        return
    from erase.cli.progress import stages
    from erase.evaluation.run import evaluate as run
    from erase.runs.processes import Distributed

    with stages() as progress:
        result = run(config, progress if Distributed.launched().is_main else None)
    print_summary(result)


def print_summary(result: EvaluationResult | None) -> None:
    """Print the summary as a table and the path of the report; print nothing without a result."""
    if result is None:  # only the main process has the result
        return
    from rich.console import Console

    from erase.evaluation.by_request import request_lines
    from erase.report.rows import summary_rows
    from erase.report.tables import MISSING, terminal

    forgotten = ", ".join(result.targets)
    heads = ("metric", "value", "95% interval", "n", "baseline", "better")
    rows = [
        (
            *(row["title"], row["value"], row["interval"], str(row["n"])),
            *(row["base"] or MISSING, row["better"].split()[0]),
        )
        for row in summary_rows(result.metrics)
    ]
    title = f"forgotten: {forgotten}" if forgotten else None
    Console().print(terminal(heads, rows, "lrrrrl", title))
    for line in request_lines(result.metrics.get("requests", ())):
        click.echo(line)
    click.echo(f"Report: {result.report}")
