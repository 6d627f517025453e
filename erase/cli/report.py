"""`erase report`: an evaluation's report again, or several evaluations side by side."""

from __future__ import annotations

from pathlib import Path

import click

from erase.cli.command import PathType, command, option
from erase.errors import InputError


@command()
@click.argument("folders", nargs=-1, required=True, type=PathType(), metavar="FOLDER…")
@option(
    "--output",
    type=PathType(),
    help="Folder for the comparison; needed for several evaluations.",
)
@option("--label", "labels", multiple=True, help="Name of a model, once for each folder.")
@option(
    "--allow-different",
    is_flag=True,
    help="Compare evaluations that were not made alike, and say in what they differ.",
)
@option("--show-explicit", is_flag=True, help="Do not pixelate the regions that NudeNet flags.")
def report(
    folders: tuple[Path, ...],
    output: Path | None,
    labels: tuple[str, ...],
    allow_different: bool,
    show_explicit: bool,
) -> None:
    """Write the report of an evaluation again, or put several side by side.

    Several evaluations become one table (models as rows, metrics as columns with 95% intervals, the
    best marked) and a strip of the same seeds across the models: report.html, table.csv, table.md,
    metrics.png and strip.png. Evaluations of other settings or samples are refused.

    \b
    erase report runs/a/evaluation-digits --show-explicit
    erase report runs/a/evaluation-digits runs/b/evaluation-digits --output comparison
    """
    from erase.report.data import load_evaluation
    from erase.report.evaluation import write_report
    from erase.report.side_by_side import table_markdown
    from erase.report.side_by_side_page import write_comparison

    runs = [load_evaluation(folder, show_explicit=show_explicit) for folder in folders]
    if len(runs) == 1 and output is None:
        write_report(folders[0] / "report.html", runs[0])
        click.echo(f"Report: {folders[0] / 'report.html'}")
        return
    if output is None:
        raise InputError("--output is missing.", "Give a folder for the comparison.")
    _check_output(output)
    table = write_comparison(output, runs, given=labels, allow_different=allow_different)
    click.echo(table_markdown(table), nl=False)
    click.echo(f"Report: {output / 'report.html'}")


WRITTEN = {"report.html", "table.csv", "table.md", "metrics.png", "strip.png"}


def _check_output(output: Path) -> None:
    """Raise InputError if the output holds anything other than an earlier comparison."""
    from erase.runs.checks import check_writable

    check_writable(output, "--output")
    contents = {item.name for item in output.iterdir()} if output.is_dir() else set()
    if foreign := sorted(contents - WRITTEN):
        raise InputError(
            f"{output} holds something else than a comparison: {foreign[0]}.",
            "Give another --output.",
        )
