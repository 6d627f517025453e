"""`erase class`: make a diffusion model forget a class of images."""

from pathlib import Path
from typing import Any

import click

from erase.cli.concept import METHODS, run
from erase.cli.options import DENOISER_SETTINGS, config_options, run_options, settings_options
from erase.config.concept import ClassConfig
from erase.config.resolve import given_settings, resolve_run

PROMPTS = frozenset({"concept", "forget_prompts", "retain_prompts"})
IMAGES = frozenset({"forget_images", "retain_images", "anchor_images"})


@click.command("class", epilog="\b\nMethods:\n" + METHODS)
@run_options
@config_options(
    ClassConfig,
    flags={"target_grad": "--target-grad/--detach-target"},
    skip=PROMPTS | IMAGES,
)
@settings_options(**DENOISER_SETTINGS)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved settings and captions; touch nothing."
)
def forget_class(
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
    """Make a diffusion model forget a class of images.

    Images of the class are the forget set, those of the other classes the retain set: real ones
    (--data), or rendered by the model. Each forget image is shown under the caption of another
    class (--anchor). The rest is as with `erase concept`.

    \b
    erase class --model mini-sd --target three --output runs/no-three
    erase class --target "golf ball" --data imagenette --output runs/no-golf-ball
    """
    options = {"alpha": alpha, "forget_weight": forget_weight, "meta_mode": meta_mode}
    pairs = given_settings(settings, options)
    resolved, replay = resolve_run(ClassConfig, given, pairs, config)
    run(resolved, replay, output, overwrite, resume, device, dry_run)
