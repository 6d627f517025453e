"""`erase concept`: make a text-to-image model forget a concept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erase.cli.command import command, importing, option
from erase.cli.early import check_denoiser, check_output
from erase.cli.options import (
    Command,
    config_options,
    methods_epilog,
    run_options,
    settings_options,
    together,
)
from erase.config.concept import ConceptConfig
from erase.config.families import CLASS_CONDITIONAL, TEXT_TO_IMAGE
from erase.config.layers import origins, run_layers
from erase.config.methods import find_method
from erase.config.resolve import given_settings, resolve_run
from erase.errors import InputError
from erase.files import read_yaml
from erase.runs.processes import Distributed

if TYPE_CHECKING:
    from erase.training.plan import ConceptPlan

METHODS = methods_epilog(TEXT_TO_IMAGE, CLASS_CONDITIONAL)


def denoiser_options(
    config: type[ConceptConfig], shown: str, skip: frozenset[str] = frozenset()
) -> Callable[[Command], Command]:
    """The options that `erase concept` and `erase class` have in common; `run` takes their values.

    Args:
        config: its fields become options.
        shown: what a dry run prints besides the settings, for the help.
        skip: fields without an option.
    """
    return together(
        run_options,
        config_options(config, flags={"target_grad": "--target-grad/--detach-target"}, skip=skip),
        settings_options(
            alpha="Inner step size of LUR, the α of eq. 2 (≥ 0), or auto: from the curvature.",
            forget_weight="Weight λ of the forget loss (≥ 0), where a method has one.",
            meta_mode="How LUR's gradient is computed: hvp (finite differences, one gradient"
            " more), exact (double backward), first-order (no Hessian), joint (the losses added:"
            " LUR-b).",
        ),
        option(
            "--dry-run",
            is_flag=True,
            help=f"Print the resolved settings, how many {shown} there are with examples, memory"
            " and disk; touch nothing.",
        ),
    )


@command(epilog=METHODS)
@denoiser_options(ConceptConfig, "prompts")
def concept(**given: Any) -> None:
    """Make a text-to-image model forget a concept.

    Renders a forget and a retain set with the original model (or reads your images), trains with
    the chosen method, and leaves a complete diffusers folder in --output.

    \b
    erase concept --model mini-sd --concept three --output runs/three
    erase evaluate --suite digits --model runs/three
    """
    run(ConceptConfig, **given)


def run(
    kind: type[ConceptConfig],
    *,
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
    """Plan and print, or run, from the values of the options of `denoiser_options`."""
    options = {"alpha": alpha, "forget_weight": forget_weight, "meta_mode": meta_mode}
    pairs = given_settings(settings, options)
    resolved, replay = resolve_run(kind, given, pairs, config)
    check_denoiser(resolved, device)
    check_output("concept", output, resolved, overwrite=overwrite, resume=resume)
    with importing():
        from erase.models.known import is_known_only
        from erase.runs.run_folder import RunFolder
        from erase.training.concept import KIND, erase_concept
        from erase.training.estimate import estimate
        from erase.training.plan import plan

    if dry_run:
        import yaml

        planned = plan(resolved, replay, device=device, fetch=False, weights=False)
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
        for origin, names in _origins(resolved, planned, {**given, **pairs}, config).items():
            click.echo(f"# from {origin}: {', '.join(names)}")
        for note in planned.notes:
            click.echo(f"# warning: {note}")
        if not is_known_only(planned.source):
            click.echo(f"# model folder: {planned.source.path}")
        for request in planned.carried.get("forgotten_before", ()):
            before = ", ".join(request["concepts"])
            click.echo(f"# forgotten before: {before} ({request.get('method')})")
        click.echo(f"# forget prompts: {len(prompts.forget)}, e.g. {prompts.forget[0]!r}")
        click.echo(f"# shown instead: e.g. {prompts.anchors[0][0]!r}")
        click.echo(f"# retain prompts: {len(prompts.retain)}, e.g. {prompts.retain[0]!r}")
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


def _origins(
    before: ConceptConfig, planned: ConceptPlan, given: Mapping[str, Any], file: Path | None
) -> dict[str, list[str]]:
    """The settings by where their values come from; those left at their own default are not named.

    Args:
        before: as it was given, by options and file, with None for what a recipe fills in.
        planned: with everything filled in.
        given: options and settings of the method that were given.
        file: the file of `--config`.
    """
    from erase.training.plan import layers_of

    config, family = planned.config, planned.family.task.family
    spec = find_method(config.method, family)
    side = config.resolution or planned.source.resolution()
    layers = layers_of(config, spec, planned.concept, family, side)
    decided = origins([*run_layers(config, spec, layers), layers[0]])
    options = {name for name, value in given.items() if value not in (None, ())}
    from_file = set(read_yaml(file)) | set(before.settings) if file else set()
    named: dict[str, list[str]] = {}
    for name, value in {**vars(config), **config.settings}.items():
        if name in options:
            named.setdefault("the command line", []).append(name)
        elif name in from_file and name != "settings":
            named.setdefault(str(file), []).append(name)
        elif name in decided and value is not None:
            named.setdefault(decided[name], []).append(name)
    return named
