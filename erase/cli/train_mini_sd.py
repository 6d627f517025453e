"""`erase train mini-sd`: rebuild the embedded model from scratch."""

from pathlib import Path

import click

from erase.cli.command import PathType, command, option
from erase.cli.early import check_device_name
from erase.cli.options import device_option
from erase.config.limits import SEEDS, TRAIN_STEPS


@command("mini-sd")
@option("--output", type=PathType(), required=True, help="Folder for the pipeline.")
@option(
    "--classifier-output",
    type=PathType(),
    help="Also train the digit classifier, into this folder.",
)
@option(
    "--seed",
    type=click.IntRange(0, SEEDS),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
@option(
    "--max-train-steps",
    "steps",
    former=("steps",),
    type=click.IntRange(1, TRAIN_STEPS),
    help="Steps of the denoiser; default: the shipped model's.",
)
@option(
    "--vae-steps",
    type=click.IntRange(1, TRAIN_STEPS),
    help="Steps of the autoencoder; default: the shipped model's.",
)
@option(
    "--without",
    metavar="NAMES",
    help="Digits to leave out, comma-separated: a model that never knew them, judged by one that"
    " does.",
)
@option(
    "--images-per-class",
    type=click.IntRange(0, 10_000),
    default=50,
    show_default=True,
    help="Images a digit rendered to measure the quality for the model card; 0: do not.",
)
@device_option
@option("--overwrite", is_flag=True, help="Replace the models that the folders hold.")
def mini_sd(
    output: Path,
    classifier_output: Path | None,
    seed: int,
    steps: int | None,
    vae_steps: int | None,
    without: str | None,
    images_per_class: int,
    device: str | None,
    overwrite: bool,
) -> None:
    """Train mini-sd, a small Stable Diffusion of handwritten digits, from scratch.

    Needs no download: the digits are scikit-learn's. Takes 18 minutes on one CPU thread
    (OMP_NUM_THREADS=1, --device cpu), which gives the shipped weights to the byte on the machine
    that made them; the model card states recipe, cost and measured quality.

    \b
    erase train mini-sd --output runs/mini-sd
    erase train mini-sd --without three --output runs/never-knew-three
    """
    check_device_name(device)
    from erase.embedded.mini_sd import DENOISER_STEPS, train_mini_sd
    from erase.embedded.mini_sd_stages import VAE_STEPS

    folder = train_mini_sd(
        output,
        seed=seed,
        steps=DENOISER_STEPS if steps is None else steps,
        vae_steps=VAE_STEPS if vae_steps is None else vae_steps,
        without=without,
        classifier_output=classifier_output,
        images_a_class=images_per_class,
        device=device,
        overwrite=overwrite,
    )
    click.echo(f"Saved {folder}: a complete diffusers pipeline with its model card.")
