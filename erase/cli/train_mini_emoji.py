"""`erase train mini-emoji`: rebuild the embedded model of icons from scratch."""

from pathlib import Path
from typing import Any

import click

from erase.cli.command import command, option
from erase.cli.early import check_device_name
from erase.cli.options import device_option

STEPS = click.IntRange(min=1)
RATE = click.FloatRange(min=0.0, min_open=True)


@command("mini-emoji")
@option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the pipeline.")
@option(
    "--data-dir",
    "data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the icons: sheets with an index.json, or the npm packages (needs resvg-py).",
)
@option(
    "--judges-output",
    type=click.Path(path_type=Path),
    help="Also train the judges, into emoji-objects and emoji-styles of this folder.",
)
@option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
@option("--max-train-steps", "steps", type=STEPS, help="Steps of the denoiser.")
@option(
    "--max-train-minutes",
    "minutes",
    type=RATE,
    help="Take as many of the denoiser's steps as fit; the model card says how many.",
)
@option("--train-batch-size", "batch", type=STEPS, help="Pictures a step of the denoiser.")
@option("--learning-rate", "rate", type=RATE, help="The denoiser's.")
@option("--ema", type=click.FloatRange(0.0, 1.0, max_open=True), help="Decay of its average.")
@option("--falling", type=click.FloatRange(0.0, 1.0), help="Share of steps of a falling rate.")
@option("--copies", type=STEPS, help="Pictures of an icon on a background that are encoded.")
@option("--vae-steps", type=STEPS, help="Steps of the autoencoder.")
@option("--vae-batch", type=STEPS, help="Pictures a step of the autoencoder.")
@option("--vae-rate", type=RATE, help="Learning rate of the autoencoder.")
@option("--vae-minutes", type=RATE, help="Take as many of the autoencoder's steps as fit.")
@option("--judge-steps", type=STEPS, help="Steps of the judges.")
@option("--judge-batch", type=STEPS, help="Pictures a step of the judges.")
@option("--judge-rate", type=RATE, help="Learning rate of the judges.")
@option("--judge-minutes", type=RATE, help="Take as many of the judges' steps as fit.")
@option(
    "--mixed-precision",
    type=click.Choice(["no", "bf16"]),
    default="no",
    show_default=True,
    help="bf16 computes in 16 bits where that is safe; for a GPU, and for the shipped weights.",
)
@option(
    "--images-per-pair",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Pictures rendered of each of a third of all pairs, to measure the quality; 0: do not.",
)
@device_option
@option(
    "--checkpoint-dir",
    "checkpoints",
    type=click.Path(path_type=Path),
    help="Keep the training's state there, and go on from it if there is one.",
)
@option("--checkpointing-steps", type=STEPS, default=500, show_default=True, help="How often.")
@option("--overwrite", is_flag=True, help="Replace the models that the folders hold.")
def mini_emoji(
    output: Path,
    data: Path,
    judges_output: Path | None,
    seed: int,
    mixed_precision: str,
    images_per_pair: int,
    device: str | None,
    checkpoints: Path | None,
    checkpointing_steps: int,
    overwrite: bool,
    **recipe: Any,
) -> None:
    """Train mini-emoji, a small Stable Diffusion of icons in several styles, from scratch.

    The icons do not come with erase: --data-dir names their folder. Settings that are not given are
    the shipped model's; the model card states recipe, cost and measured quality.

    \b
    npm install --prefix icons @iconify-json/noto@1.2.9 …     (all six: prompts/emoji.yaml)
    erase train mini-emoji --data-dir icons --output runs/mini-emoji --judges-output runs/judges
    """
    check_device_name(device)
    from erase.embedded.mini_emoji import train_mini_emoji
    from erase.embedded.mini_emoji_stages import Recipe

    given = {name: value for name, value in recipe.items() if value is not None}
    folder = train_mini_emoji(
        output,
        data,
        judges_output=judges_output,
        seed=seed,
        recipe=Recipe(**given, bf16=mixed_precision == "bf16"),
        images_a_pair=images_per_pair,
        device=device,
        checkpoints=checkpoints,
        checkpointing_steps=checkpointing_steps,
        overwrite=overwrite,
    )
    click.echo(f"Saved {folder}: a complete diffusers pipeline with its model card.")
