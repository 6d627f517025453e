"""`erase class`: make a diffusion model forget a class of images."""

from typing import Any

from erase.cli.command import command
from erase.cli.concept import METHODS, denoiser_options, run
from erase.config.concept import ClassConfig

PROMPTS = frozenset({"concept", "erase_from", "forget_prompts", "retain_prompts"})
IMAGES = frozenset({"forget_images", "retain_images", "anchor_images"})


@command("class", epilog=METHODS)
@denoiser_options(ClassConfig, "captions", skip=PROMPTS | IMAGES)
def forget_class(**given: Any) -> None:
    """Make a diffusion model forget a class of images.

    Images of the class are the forget set, those of the other classes the retain set: real ones
    (--data), or rendered by the model. Each forget image is shown under the caption of another
    class (--anchor). The rest is as with `erase concept`.

    \b
    erase class --model mini-sd --target three --output runs/no-three
    erase class --target "golf ball" --data imagenette --output runs/no-golf-ball
    """
    run(ClassConfig, **given)
