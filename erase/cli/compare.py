"""`erase compare`: methods side by side."""

import time
from pathlib import Path
from typing import Any

import click

from erase.cli.options import config_options, resolve
from erase.config.compare import CompareConfig, CompareDiffusionConfig, settings_by_line
from erase.errors import InputError


@click.group()
def compare() -> None:
    """Compare unlearning methods on the same model and the same forget sets."""


@compare.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Result folder.")
@click.option(
    "--forget",
    "specs",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="What to forget (see `erase classifier`); may be given several times.",
)
@click.option(
    "--methods",
    default="all",
    help="Comma-separated methods, or `all`; METHOD+dual adds DualOptim, lur+trim trimming,"
    " METHOD@NAME=VALUE@… fixes settings for one line.",
)
@click.option(
    "--alphas", metavar="A,B,…", help="Also run LUR at these α, and plot the gap over them."
)
@click.option("--device", help="cpu, cuda, cuda:1, …; default: a GPU when there is one.")
@config_options(CompareConfig)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="METHOD.NAME=VALUE",
    help="A setting of one method, or of its run (retrain.schedule=cosine); it is not searched.",
)
def classifier(
    output: Path,
    specs: tuple[str, ...],
    methods: str,
    alphas: str | None,
    device: str | None,
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
    config = resolve(CompareConfig, given, None).replace(settings=settings_by_line(settings))
    from rich.console import Console

    from erase.compare import classifier as classifier_comparison
    from erase.compare.classifier_report import report_folder, terminal, write_report
    from erase.compare.entries import entries as parse_entries
    from erase.compare.jobs import plan_of, run_ahead
    from erase.runs.folder import ComparisonFolder
    from erase.training.classifier_runs import pick_device

    start = time.perf_counter()
    entries = parse_entries(methods, alphas)
    chosen_device = pick_device(device)
    folder = ComparisonFolder(output, "compare classifier", config=config)
    with folder.hold(config=config.to_dict(), device=str(chosen_device)) as record:
        original, original_hash = classifier_comparison.prepare_original(
            config, output, chosen_device
        )
        if config.jobs > 1:
            run_ahead(plan_of(config, output, str(chosen_device), specs, entries))
        facts = {"config": config.to_dict(), "original_sha256": original_hash}
        for spec in specs:
            results = report_folder(output, spec)
            comparison = classifier_comparison.Comparison(
                config,
                original,
                original_hash,
                spec,
                entries,
                results,
                _print_progress,
            )
            table = write_report(results, comparison.run(), facts)
            title = f"{original.description.dataset}, {spec}, trials: {config.trials}"
            Console().print(terminal(table, title))
        if record:
            record.finish(wall_s=round(time.perf_counter() - start, 1))
    click.echo(f"Saved {output}: table.csv, table.md, results.json and plots for each forget set.")


@compare.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Result folder.")
@click.option(
    "--methods",
    default="all",
    help="Comma-separated methods, or `all`; METHOD@NAME=VALUE@… fixes settings for one line.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="METHOD.NAME=VALUE",
    help="A setting of one method, or an option of its `erase concept` run.",
)
@click.option("--device", default="cpu", help="cpu, cuda, cuda:1, …", show_default=True)
@config_options(CompareDiffusionConfig)
def diffusion(
    output: Path, methods: str, settings: tuple[str, ...], device: str, **given: Any
) -> None:
    """Compare unlearning methods on a text-to-image model: UA, RA, FID, seconds, memory.

    The images of each concept are rendered once and shared by all methods; each method runs in a
    process of its own through `erase concept`. Started again with the same --output, it goes on
    where it was.

    \b
    erase compare diffusion --model mini-sd --concept three --concept seven \\
        --methods lur,lur-b,salun --output runs/compare
    """
    config = resolve(CompareDiffusionConfig, given, None)
    for name in ("model", "concept"):
        if not getattr(config, name):
            raise InputError(f"--{name} is missing.", f"Give --{name}.")
    from rich.console import Console

    from erase.compare.diffusion import Comparison
    from erase.compare.diffusion_entries import entries
    from erase.compare.diffusion_table import terminal, write_table
    from erase.runs.checks import check_device
    from erase.runs.folder import ComparisonFolder

    check_device(device)
    folder = ComparisonFolder(output, "compare diffusion", config=config)
    folder.check()
    lines = entries(methods, settings)
    comparison = Comparison(config, lines, output, device, _print_progress)
    comparison.check()
    with folder.hold(config=config.to_dict(), device=device) as record:
        rows = comparison.run()
        facts = {"config": config.to_dict(), "methods": methods, "set": list(settings)}
        means = write_table(output, rows, {**facts, "device": device})
        if record:
            record.finish()
    Console().print(terminal(means, f"{config.model}: {', '.join(config.concept)}"))
    click.echo(f"Saved {output}: table.csv, table.md, results.json.")


def _print_progress(text: str) -> None:
    click.echo(text, err=True)
