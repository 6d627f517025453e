"""`erase doctor`: what is there, what is missing, and the command that fetches it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from erase.cli.command import command, option
from erase.cli.completion import complete

if TYPE_CHECKING:
    from erase.artifacts.checks import Finding

MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]"}


@command()
@option(
    "--suite",
    "suites",
    multiple=True,
    shell_complete=complete("suite"),
    help="Check what a suite needs.",
)
@option(
    "--model",
    "models",
    multiple=True,
    shell_complete=complete("model"),
    help="Check a model: alias, hub id or folder.",
)
@option(
    "--metric",
    "metrics",
    multiple=True,
    shell_complete=complete("metric"),
    help="Check what a metric needs.",
)
@option("--weights", multiple=True, metavar="NAME", help="Check a weight file.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    suites: tuple[str, ...],
    models: tuple[str, ...],
    metrics: tuple[str, ...],
    weights: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what is there, what is missing, and the command that fetches it. Needs no network.

    Exit code 0 when the installation is sound and what was asked for is there, else 1. Without an
    option the weights that erase knows are listed, and none is asked for.

    \b
    erase doctor --suite i2p --model sd-1.4
    """
    from erase.artifacts import checks
    from erase.artifacts.weights import weight_names
    from erase.cli.needs import list_items, read_prompts

    selected = bool(suites or models or metrics or weights)
    items = list_items(suites, models, metrics, weights if selected else weight_names())
    findings = [
        *checks.check_system(),
        *checks.check_libraries(),
        *checks.check_package(),
        checks.check_prompts(read_prompts),
        *(checks.check_item(item, needed=selected) for item in items),
    ]
    failed = [finding for finding in findings if finding.fails()]
    if as_json:
        content = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(content, indent=2))
    else:
        _print_findings(findings)
        click.echo(f"{len(failed)} to mend." if failed else "All is well.")
    if failed:
        raise click.exceptions.Exit(1)


def _print_findings(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from erase.artifacts.checks import OK, Finding

    console = Console(highlight=False)
    for group in ("system", "package", "libraries", "data"):
        rows = [finding for finding in findings if finding.group == group]
        if group == "libraries" and all(row.state == OK for row in rows):
            listed = ", ".join(f"{row.name} {row.detail}" for row in rows)
            rows = [Finding(group, f"all {len(rows)}", OK, listed)]
        if not rows:
            continue
        table = Table(
            title=group, title_justify="left", title_style="bold", box=None, show_header=False
        )
        table.add_column(no_wrap=True, min_width=17)
        table.add_column(no_wrap=True, min_width=7)
        table.add_column(overflow="fold")
        for row in rows:
            remedy = f"[cyan]{escape(row.remedy)}[/]" if row.remedy else ""
            text = "\n".join(part for part in (escape(row.detail), remedy) if part)
            table.add_row(escape(row.name), MARKS.get(row.state, ""), text)
        console.print(table)
        console.print()
