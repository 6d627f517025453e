"""A run's whole model, or its UNet or VAE alone, in the original Stable Diffusion layout."""

import torch
from torch import Tensor

from erase.export.run import FinishedRun
from erase.files import read_json
from erase.models import original_layout as layout
from erase.models.weights import read_weights


def whole_model(run: FinishedRun) -> dict[str, Tensor]:
    """UNet, VAE and text encoders, with empty tensors as marks of a v-prediction."""
    parts = {"unet": read_weights(run.folder / "unet"), "vae": read_weights(run.folder / "vae")}
    for _, part in zip(layout.TEXT[run.family], layout.ENCODERS, strict=False):
        parts[part] = read_weights(run.folder / part)
    vae = read_json(run.folder / "vae" / "config.json", layout.VaeConfig)
    tensors = layout.convert_model(run.family, parts, run.config, vae)
    return tensors | {mark: torch.empty(0) for mark in run.marks()}


def unet_alone(run: FinishedRun) -> dict[str, Tensor]:
    """The UNet under the names that it has in a whole checkpoint.

    ComfyUI looks for the marks of a v-prediction with the UNet's prefix in such a file, other
    readers without it.
    """
    tensors = layout.convert_unet(read_weights(run.folder / "unet"), run.config)
    for mark in run.marks():
        tensors |= {mark: torch.empty(0), layout.UNET + mark: torch.empty(0)}
    return tensors


def vae_alone(run: FinishedRun) -> dict[str, Tensor]:
    """The VAE without a prefix, as separate VAE files have it."""
    config = read_json(run.folder / "vae" / "config.json", layout.VaeConfig)
    return layout.convert_vae(read_weights(run.folder / "vae"), config)
