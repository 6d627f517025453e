"""`erase demo`: erase a digit from the embedded model and look at the result."""

from pathlib import Path

import click

from erase.cli.command import PathType, command, option
from erase.cli.completion import complete
from erase.errors import InputError


@command()
@option(
    "--concept",
    default="three",
    show_default=True,
    help="Digit to erase.",
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
    default=20,
    show_default=True,
    help="Images a digit to judge by.",
)
@option(
    "--quick",
    is_flag=True,
    help="Two steps and few images: it shows that all runs.",
)
@option("--overwrite", is_flag=True, help="Start again, whatever the folder holds.")
def demo(concept: str, output: Path, images_per_class: int, quick: bool, overwrite: bool) -> None:
    """Erase "three" from mini-sd, evaluate it, and name the report.

    Takes a few minutes on two CPU cores. Run again, it goes on where it stopped. It judges fewer
    images than `erase evaluate` does by default, so its intervals are wider.
    """
    from erase.cli.early import check_denoiser
    from erase.cli.evaluate import print_summary
    from erase.cli.progress import stages
    from erase.config.concept import ConceptConfig
    from erase.config.evaluate import EvaluateConfig, default_output
    from erase.evaluation.run import evaluate
    from erase.training.concept import erase_concept

    config = ConceptConfig(model="mini-sd", concept=(concept,), checkpointing_steps=50)
    if quick:
        config = config.replace(
            max_train_steps=2,
            train_batch_size=2,
            num_forget_images=2,
            num_retain_images=9,
            render_steps=2,
        )
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
    click.echo(f"{action} {concept!r} from mini-sd: {output} is a complete diffusers pipeline.")
    evaluation = EvaluateConfig(
        model=str(output),
        output=default_output(str(output), "digits"),
        images_per_class=min(images_per_class, 2) if quick else images_per_class,
        render_steps=2 if quick else None,
        overwrite=overwrite,
    )
    with stages() as progress:
        result = evaluate(evaluation, progress)
    print_summary(result)
