"""`erase concept`: make a text-to-image model forget a concept."""

from pathlib import Path
from typing import Any, TypeVar

import click

from erase import registry
from erase.cli.options import DENOISER_SETTINGS, config_options, run_options, settings_options
from erase.config.concept import ConceptConfig
from erase.config.families import CLASS_CONDITIONAL, TEXT_TO_IMAGE, methods_for
from erase.config.replay import Replay
from erase.config.resolve import given_settings, resolve_run
from erase.errors import InputError
from erase.runs.processes import Distributed

Run = TypeVar("Run", bound=ConceptConfig)
METHODS = "\n".join(
    f"  {name}: {registry.summary('methods', name)}"
    for name in methods_for(TEXT_TO_IMAGE, CLASS_CONDITIONAL)
)


@click.command(epilog="\b\nMethods:\n" + METHODS)
@run_options
@config_options(
    ConceptConfig,
    flags={"target_grad": "--target-grad/--detach-target"},
)
@settings_options(**DENOISER_SETTINGS)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved settings and prompts; touch nothing."
)
def concept(
    output: Path,
    config: Path | None,
    overwrite: bool,
    resume: str | None,
    device: str | None,
    dry_run: bool,
    settings: tuple[str, ...],
    alpha: str | None,
    forget_weight: str | None,
    meta_mode: str | None,
    **given: Any,
) -> None:
    """Make a text-to-image model forget a concept.

    Renders a forget and a retain set with the original model (or reads your images), trains with
    the chosen method, and leaves a complete diffusers folder in --output.

    \b
    erase concept --model mini-sd --concept three --output runs/three
    erase evaluate --suite digits --model runs/three
    """
    options = {"alpha": alpha, "forget_weight": forget_weight, "meta_mode": meta_mode}
    pairs = given_settings(settings, options)
    resolved, replay = resolve_run(ConceptConfig, given, pairs, config)
    run(resolved, replay, output, overwrite, resume, device, dry_run)


def run(
    resolved: Run,
    replay: Replay[Run] | None,
    output: Path,
    overwrite: bool,
    resume: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Print the plan (`--dry-run`), or run it; `erase concept` and `erase class` both end here."""
    from erase.runs.run_folder import RunFolder
    from erase.training.concept import KIND, erase_concept
    from erase.training.plan import plan

    if dry_run:
        import yaml

        planned = plan(resolved, replay, device=device, fetch=False)
        prompts = planned.concept
        RunFolder(
            output,
            KIND,
            planned.config,
            overwrite=overwrite,
            resume=resume,
            inputs=planned.inputs,
        ).check()
        click.echo(yaml.safe_dump(planned.config.to_dict(), sort_keys=False), nl=False)
        for note in planned.notes:
            click.echo(f"# warning: {note}")
        click.echo(f"# model folder: {planned.source.path}")
        click.echo(f"# forget prompts: {len(prompts.forget)}, e.g. {prompts.forget[0]!r}")
        click.echo(f"# shown instead: e.g. {prompts.anchors[0][0]!r}")
        click.echo(f"# retain prompts: {len(prompts.retain)}, e.g. {prompts.retain[0]!r}")
        from erase.training.estimate import estimate

        try:
            lines = estimate(planned, device=device).lines()
        except InputError as error:
            lines = [f"{error.message} {error.remedy}"]
        for line in lines:
            click.echo(f"# {line}")
        return
    folder = erase_concept(
        resolved, output, replay=replay, overwrite=overwrite, resume=resume, device=device
    )
    if Distributed.launched().is_main:
        click.echo(f"Saved {folder}: a complete diffusers pipeline, with its record.")
