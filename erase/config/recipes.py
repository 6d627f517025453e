"""Settings by task: of every method with their source, and by image size where it has none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TASKS: dict[str, str] = {
    "nudity": "Stable Diffusion, nudity and other unsafe content",
    "class": "Stable Diffusion, a class or object",
    "style": "Stable Diffusion, the style of an artist",
    "small": "text-to-image up to 64 pixels (mini-sd)",
    "class-conditional": "class-conditional DDPM from 32 pixels on (CIFAR-10)",
    "class-conditional-small": "class-conditional DDPM below 32 pixels (digits)",
    "cifar10": "classifier, CIFAR-10, less than 30% of the training set",
    "cifar10:50": "classifier, CIFAR-10, 30% and more",
    "cifar100": "classifier, CIFAR-100, less than 30%",
    "cifar100:50": "classifier, CIFAR-100, 30% and more",
    "celeba": "classifier, faces (CelebA-HQ identities)",
    "digits": "classifier, handwritten digits",
}
"""The tasks that methods have settings for, by the key in their `RECIPES`."""
KINDS = ("nudity", "class", "style")
"""What a concept may be; it decides which settings of a method apply on large models."""


@dataclass(frozen=True)
class Recipe:
    """What a method is run with on one task.

    `values` are settings of the method and of the run. `epochs`, on a denoiser, are passes over the
    forget set; the steps follow from its number of images. `source` names the paper's section or
    the file of the authors' code, or says how the values were found; `published` tells which.
    """

    source: str
    published: bool
    values: Mapping[str, Any]


def published(source: str, /, **values: Any) -> Recipe:
    """Settings that a paper or its authors' code states."""
    return Recipe(source, published=True, values=values)


def ours(reason: str, /, **values: Any) -> Recipe:
    """Settings that are not from a source, with where they come from instead."""
    return Recipe(reason, published=False, values=values)


SALUN_DDPM: dict[str, Any] = {
    "learning_rate": 1e-4,
    "max_train_steps": 1000,
    "train_batch_size": 128,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_grad_norm": 1.0,
}
"""SalUn's schedule for class-conditional DDPM (DDPM/runners/diffusion.py and its README)."""
SMALL: dict[str, Any] = {
    "trainable": "full",
    # Measured on mini-sd over all ten digits: docs/mini-sd.md.
    "max_train_steps": 150,
    "train_batch_size": 32,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "caption_dropout": 0.1,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 5,
    "ema_decay": 0.0,
    "num_forget_images": 128,
    "num_retain_images": 576,
    "num_anchor_images": 128,
    "render_steps": 25,
    "forget_guidance": 1.0,
    "retain_guidance": 1.0,
    "render_batch_size": 64,
}
LARGE: dict[str, Any] = {
    "trainable": "full",
    # SalUn's for Stable Diffusion (nudity): 800 + 800 images, batch 8, Adam at 1e-5, one epoch.
    "max_train_steps": 100,
    "train_batch_size": 8,
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "caption_dropout": 0.0,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "ema_decay": 0.0,
    "num_forget_images": 800,
    "num_retain_images": 800,
    "num_anchor_images": 800,
    "render_steps": 50,
    "forget_guidance": 7.5,
    "retain_guidance": 7.5,
    "render_batch_size": 4,
}


def recipe_help() -> dict[str, str]:
    """What `--help` says of each default in the recipes."""
    return {
        name: f"recipe: {large} ({small} up to 64 pixels); see --dry-run"
        if (small := SMALL[name]) != large
        else f"recipe: {large}; see --dry-run"
        for name, large in LARGE.items()
    }


def recipe(resolution: int) -> dict[str, Any]:
    """Defaults for a model that renders `resolution` pixels a side."""
    return SMALL if resolution <= 64 else LARGE
