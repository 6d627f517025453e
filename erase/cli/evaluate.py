"""`erase evaluate`: what a model still renders, and how well it renders the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erase import registry
from erase.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from erase.evaluation.run import Result


@click.command()
@click.option(
    "--model", required=True, help="Model to evaluate: a run's folder, an alias or a hub id."
)
@click.option(
    "--suite",
    default="digits",
    show_default=True,
    help=f"What is asked of the model: {', '.join(registry.names('suites'))}.",
)
@click.option("--output", help="Evaluation folder. [default: evaluation-SUITE in the model's]")
@click.option(
    "--target",
    multiple=True,
    help="Forgotten concept; may be repeated. [default: what the model's record names]",
)
@click.option(
    "--baseline",
    help="Control, rendered from the same seeds. [default: the base model of the record]",
)
@click.option("--no-baseline", is_flag=True, help="Evaluate without a control.")
@click.option(
    "--protocol", default="default", show_default=True, help="Named settings of the suite."
)
@click.option("--steps", type=int, help="Denoising steps. [default: the protocol's]")
@click.option("--guidance", type=float, help="Guidance scale. [default: the protocol's]")
@click.option("--images-per-class", type=int, help="Images a class. [default: the protocol's]")
@click.option("--seed", type=int, help="Seed of all seeds. [default: the protocol's]")
@click.option("--limit", type=int, help="At most N images, spread evenly over the classes.")
@click.option(
    "--batch-size", type=int, default=50, show_default=True, help="Images rendered at once."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision to render in; another one gives other images.",
)
@click.option(
    "--cache-dir",
    help="Folder of the controls' images, shared by evaluations. [default: renders in ERASE_CACHE,"
    " or else erase/renders in XDG_CACHE_HOME or ~/.cache]",
)
@click.option("--overwrite", is_flag=True, help="Replace another evaluation in the folder.")
@click.option(
    "--show-explicit",
    is_flag=True,
    help="Do not pixelate, in the report, the regions that NudeNet flags.",
)
@click.option(
    "--prompts",
    metavar="FILE|FOLDER",
    help="CSV table of prompts (.csv, .csv.gz), or folder that replaces the built-in ones.",
)
@click.option(
    "--scheduler", help="Sampler, a diffusers class: DDIMScheduler. [default: the protocol's]"
)
@click.option("--size", type=int, help="Pixels a side. [default: the protocol's]")
@click.option(
    "--metrics",
    help=f"With commas, of: {', '.join(registry.names('metrics'))}. [default: the protocol's]",
)
@click.option("--threshold", type=float, help="NudeNet's, 0 to 1. [default: the protocol's]")
@click.option(
    "--classifier",
    metavar="NAME|FOLDER|FILE",
    help="Judge: digits-classifier, efficientnet-lite0, a torchvision or timm model, a folder of"
    " `erase train classifier`, a weight file. [default: the protocol's]",
)
@click.option(
    "--reference",
    help="Folder of real images that FID and KID compare with, classes as subfolders."
    " [default: the classifier's own, else the control's images]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="METRIC.NAME=VALUE",
    help="Any other setting: fid.features=inception-64, clip.model=vit-b-32; may be repeated.",
)
@click.option("--categories", help="I2P's, with commas: sexual,violence. [default: all]")
@click.option(
    "--min-nudity", type=float, help="Only I2P prompts of at least this nudity percentage."
)
def evaluate(**options: Any) -> None:
    """Render fixed-seed images from captions, and measure them and the base model's.

    Suite and protocol say what is rendered, how, and what is measured: for the digits, how often
    the forgotten concept is still recognised, how well the other classes are kept, and how far the
    images are from real ones. Every setting can be changed; the record says what was.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    options["output"] = options["output"] or default_output(options["model"], options["suite"])
    names = (options["metrics"] or "").split(",")
    options["metrics"] = tuple(name.strip() for name in names if name.strip())
    config = EvaluateConfig(**options)

    from erase.cli.progress import stages
    from erase.evaluation.run import evaluate as run
    from erase.runs.processes import Distributed

    with stages() as progress:
        result = run(config, progress if Distributed.launched().is_main else None)
    show(result)


def default_output(model: str, suite: str) -> str:
    """Inside a model's folder, or in the working directory for a model that is not one."""
    if Path(model).is_dir():
        return str(Path(model) / f"evaluation-{suite}")
    return f"evaluation-{suite}-{model.replace('/', '--')}"


def show(result: Result | None) -> None:
    """Print the summary as a table, and where the report lies; nothing where there is no result."""
    if result is None:  # this process helped to render for another one
        return
    from rich.console import Console

    from erase.report.rows import summary_rows
    from erase.report.tables import MISSING, terminal

    forgotten = ", ".join(result.targets)
    heads = ("metric", "value", "95% interval", "n", "control", "better")
    rows = [
        (
            *(row["title"], row["value"], row["interval"], str(row["n"])),
            *(row["base"] or MISSING, row["better"].split()[0]),
        )
        for row in summary_rows(result.metrics)
    ]
    title = f"forgotten: {forgotten}" if forgotten else None
    Console().print(terminal(heads, rows, "lrrrrl", title))
    click.echo(f"Report: {result.report}")
