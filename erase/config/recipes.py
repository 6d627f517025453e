"""Defaults of `erase concept` by the size of the images, each with its source."""

from typing import Any

SMALL: dict[str, Any] = {
    "trainable": "full",
    # Measured on mini-sd over all ten digits: docs/mini-sd.md.
    "max_train_steps": 150,
    "train_batch_size": 32,
    "learning_rate": 1e-4,
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
    # SalUn's recipe for Stable Diffusion (nudity): 800 + 800 images, batch 8, lr 1e-5, one epoch.
    "max_train_steps": 100,
    "train_batch_size": 8,
    "learning_rate": 1e-5,
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

CLASS_EPOCHS = 5
"""Passes over the images of a class when Stable Diffusion forgets it (SalUn, Imagenette)."""


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
