"""`erase fetch`: bring what a machine without network will need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from erase import registry
from erase.cli.command import command, option
from erase.cli.completion import complete
from erase.errors import EraseError

if TYPE_CHECKING:
    from erase.artifacts.download import Progress
    from erase.artifacts.inventory import Item


@command()
@option(
    "--suite",
    "suites",
    multiple=True,
    shell_complete=complete("suite"),
    help=f"Prompts, data and weights of a suite: {', '.join(registry.names('suites'))}.",
)
@option(
    "--model",
    "models",
    multiple=True,
    shell_complete=complete("model"),
    help="Alias or hub id of a model.",
)
@option(
    "--metric",
    "metrics",
    multiple=True,
    shell_complete=complete("metric"),
    help=f"Weights of a metric: {', '.join(registry.names('metrics'))}.",
)
@option("--weights", multiple=True, metavar="NAME", help="A file by the name doctor gives.")
@option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
def fetch(
    suites: tuple[str, ...],
    models: tuple[str, ...],
    metrics: tuple[str, ...],
    weights: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Download what evaluations and models need, so that they run without network.

    Every option may be given several times; without any, what could be fetched is listed. What is
    there is left alone, an interrupted download goes on where it stopped, and every file is
    checked by its SHA-256. Models go to the hub's cache, the rest to erase's own: ERASE_CACHE, or
    else erase in XDG_CACHE_HOME or ~/.cache.

    \b
    erase fetch --suite i2p --suite imagenette --model sd-1.4
    """
    from erase.artifacts.inventory import size_text
    from erase.cli.needs import list_items

    if not (suites or models or metrics or weights):
        _print_available()
        return
    items = list_items(suites, models, metrics, weights)
    missing = [item for item in items if not item.is_here()]
    if not missing:
        click.echo("Nothing has to be fetched." if not items else "Everything is there.")
        return
    click.echo(
        f"{'Would fetch' if dry_run else 'Fetching'} {len(missing)} of {len(items)},"
        f" about {size_text(sum(item.size or 0 for item in missing))}:"
    )
    failed = 0
    for item in missing:
        size = f", {size_text(item.size)}" if item.fetch else ""
        click.echo(f"  {item.name}: {item.what}{size}")
        if not dry_run:
            failed += not _fetch(item)
    if failed:
        click.echo(f"{failed} of {len(missing)} were not fetched.", err=True)
        raise click.exceptions.Exit(1)


def _fetch(item: Item) -> bool:
    """Fetch and check one item; on failure say why in one line, and what can be done."""
    try:
        if item.fetch is not None:
            with _bar(item) as progress:
                item.fetch(progress)
        path = item.find()
    except EraseError as error:
        click.secho(f"    Error: {error.message}", err=True, fg="red")
        by_hand = f"By hand: {item.place}." if item.place and item.place not in error.remedy else ""
        if advice := " ".join(part for part in (error.remedy, by_hand) if part):
            click.echo(f"    {advice}", err=True)
        return False
    click.echo(f"    {path}")
    return True


@contextlib.contextmanager
def _bar(item: Item) -> Iterator[Progress]:
    """Bytes, rate and time left on standard error, when that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=item.name, total=item.size, unit="B", unit_scale=True, disable=None) as bar:

        def update(done: int, total: int | None) -> None:
            bar.total = total or bar.total
            bar.update(done - bar.n)

        yield update


def _print_available() -> None:
    from erase.artifacts.inventory import size_text
    from erase.artifacts.models import HUB_SIZES
    from erase.artifacts.weights import weight_names
    from erase.cli.needs import list_items

    def line(item: Item) -> str:
        return f"    {item.name:<14} {size_text(item.size):>7}  {item.what}"

    click.echo("What could be fetched; name it with an option:\n\n  --model (or any hub id)")
    for name in HUB_SIZES:
        click.echo(f"    {name:<14} {size_text(HUB_SIZES[name]):>7}")
    click.echo("  --weights")
    for item in list_items(weights=weight_names()):
        click.echo(line(item))
    for flag, kind in (("--suite", "suites"), ("--metric", "metrics")):
        click.echo(f"  {flag}: all of its own")
        for name in registry.names(kind):
            items = list_items(**{kind: [name]})
            needs = ", ".join(item.name for item in items if item.fetch) or "nothing"
            click.echo(f"    {name:<14} {needs}")
