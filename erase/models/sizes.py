"""Sizes of images that a model can render, known before it is loaded."""

from __future__ import annotations

import math
from typing import Annotated, TypedDict

from msgspec import Meta

from erase.artifacts.models import NETWORKS
from erase.errors import InputError
from erase.files import read_json
from erase.models.class_conditional import ClassConditionalPipeline
from erase.models.loading import ModelSource

HALVED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Pipelines that render multiples of 8 pixels only, whatever their VAE."""


class Patch(TypedDict, total=False):
    """What the configuration of a denoiser may say."""

    patch_size: Annotated[int, Meta(ge=1, le=64)] | None


def check_size(source: ModelSource, size: int | None, option: str) -> None:
    """InputError, naming the option, for a size in pixels that the model cannot render."""
    if size is None:
        return
    kind, factor = source.pipeline_class(), source.latent_factor()
    if kind == ClassConditionalPipeline.__name__:
        own = source.resolution()
        if size != own:
            raise InputError(
                f"{option} is {size}, and {source.name} renders {own} pixels a side only.",
                f"Leave {option} out.",
            )
        return
    step = math.lcm(8, factor) if kind in HALVED else factor * _patch(source)
    if size % step:
        raise InputError(
            f"{option} is {size}, and {source.name} renders multiples of {step} pixels.",
            f"Give {max(step, size // step * step)} or {size // step * step + step}.",
        )


def _patch(source: ModelSource) -> int:
    """Latents a side that a transformer takes for one token; 1 for a UNet."""
    for name in NETWORKS:
        config = source.path / name / "config.json"
        if config.is_file():
            return read_json(config, Patch, finite=False).get("patch_size") or 1
    return 1
