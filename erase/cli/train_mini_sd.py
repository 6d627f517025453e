"""`erase train mini-sd`: rebuild the embedded model from scratch."""

from pathlib import Path

import click

from erase.errors import InputError


@click.command("mini-sd")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for the pipeline."
)
@click.option(
    "--classifier-output",
    type=click.Path(path_type=Path),
    help="Also train the digit classifier, into this folder.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--steps", type=int, help="Steps of the denoiser; default: the shipped model's.")
@click.option(
    "--vae-steps", type=int, help="Steps of the autoencoder; default: the shipped model's."
)
@click.option(
    "--images-per-class",
    type=int,
    default=50,
    show_default=True,
    help="Images a digit rendered to measure the quality for the model card; 0: do not.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--overwrite", is_flag=True, help="Replace what the folders hold.")
def mini_sd(
    output: Path,
    classifier_output: Path | None,
    seed: int,
    steps: int | None,
    vae_steps: int | None,
    images_per_class: int,
    device: str,
    overwrite: bool,
) -> None:
    """Train mini-sd, a small Stable Diffusion of handwritten digits, from scratch.

    Needs no download: the digits are scikit-learn's. Takes about a quarter of an hour on two idle
    CPU cores; the model card states recipe, cost and measured quality.
    """
    for folder in (output, classifier_output):
        if folder and folder.exists() and not overwrite:
            raise InputError(f"{folder} exists.", "Give another folder, or --overwrite.")
    from erase.models.mini_sd import DENOISER_STEPS, VAE_STEPS, train_mini_sd

    train_mini_sd(
        output,
        seed=seed,
        steps=steps or DENOISER_STEPS,
        vae_steps=vae_steps or VAE_STEPS,
        classifier_output=classifier_output,
        images_a_class=images_per_class,
        device=device,
    )
    click.echo(f"Saved {output}: a complete diffusers pipeline with its model card.")
