"""`erase demo`: erase an object from the embedded model and look at the result."""

from pathlib import Path
from typing import Any

import click

from erase.cli.command import PathType, command, option
from erase.cli.completion import complete
from erase.errors import InputError

MODEL, SUITE = "mini-emoji", "emoji"
UNLEARNING: dict[str, Any] = {
    "max_train_steps": 100,
    "train_batch_size": 16,
    "num_forget_images": 60,
    "num_retain_images": 195,
    "render_steps": 8,
}
"""Smaller than the recipe: a third of the images and steps of half the size, for two CPU cores."""
JUDGING: dict[str, Any] = {
    "render_steps": 8,
    "settings": ("emoji.forgotten=24", "emoji.paraphrases=8"),
}
QUICK_UNLEARNING: dict[str, Any] = {
    "max_train_steps": 2,
    "train_batch_size": 2,
    "num_forget_images": 2,
    "num_retain_images": 9,
    "render_steps": 2,
}
QUICK_JUDGING: dict[str, Any] = {
    "render_steps": 1,
    "guidance": 1.0,
    "limit": 80,
    "settings": ("emoji.forgotten=6", "emoji.paraphrases=0"),
    "metrics": ("ua", "ra", "ira", "cra", "fid"),
}


@command()
@option(
    "--concept",
    default="cat",
    show_default=True,
    help="Object, style or colour to erase.",
    shell_complete=complete("concept"),
)
@option(
    "--output",
    type=PathType(),
    default=Path("runs/demo"),
    show_default=True,
    help="Run folder.",
)
@option(
    "--images-per-class",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Images of each object in each style to judge by.",
)
@option(
    "--quick",
    is_flag=True,
    help="Two steps and few, coarse images: it shows that all runs.",
)
@option("--overwrite", is_flag=True, help="Start again, whatever the folder holds.")
def demo(concept: str, output: Path, images_per_class: int, quick: bool, overwrite: bool) -> None:
    """Erase "cat" from mini-emoji, evaluate it, and name the report.

    Takes a few minutes on two CPU cores. Run again, it goes on where it stopped. It trains on fewer
    images than `erase concept`, and judges fewer than `erase evaluate` does by default, so its
    intervals are wider.
    """
    from erase.cli.early import check_denoiser
    from erase.cli.evaluate import print_summary
    from erase.cli.progress import stages
    from erase.config.concept import ConceptConfig
    from erase.config.evaluate import EvaluateConfig, default_output
    from erase.evaluation.run import evaluate
    from erase.training.concept import erase_concept

    config = ConceptConfig(model=MODEL, concept=(concept,), checkpointing_steps=50)
    config = config.replace(**(QUICK_UNLEARNING if quick else UNLEARNING))
    check_denoiser(config, None)
    resume = None if overwrite else "latest"
    try:
        erase_concept(config, output, overwrite=overwrite, resume=resume)
    except InputError as error:
        mended = ("--resume-from", "--config", "--output")
        if not output.is_dir() or not any(option in error.remedy for option in mended):
            raise
        remedy = "Give --overwrite to start again, or another --output."
        raise InputError(error.message, remedy) from error
    action = "Took two steps to erase" if quick else "Erased"
    click.echo(f"{action} {concept!r} from {MODEL}: {output} is a complete diffusers pipeline.")
    evaluation = EvaluateConfig(
        model=str(output),
        suite=SUITE,
        output=default_output(str(output), SUITE),
        images_per_class=images_per_class,
        overwrite=overwrite,
        **(QUICK_JUDGING if quick else JUDGING),
    )
    with stages() as progress:
        result = evaluate(evaluation, progress)
    print_summary(result)
    click.echo(f"Before and after: {Path(evaluation.output) / 'plots' / 'before_after.png'}")
