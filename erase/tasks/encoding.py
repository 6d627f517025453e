"""Encode images and prompts once, for all families that render from text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from erase.data.captioned import CaptionedImages, load_image
from erase.tasks.latents import EncodedImages, LatentCache
from erase.tasks.words import word_positions

ENCODE_BATCH = 16
ENCODE_PIXELS = 4 * 512**2
"""The most pixels that are encoded at once."""
Conditions = Callable[[DiffusionPipeline, list[str]], dict[str, Tensor]]
"""Encodes prompts: tensors `[P, …]` on the CPU, by the names that the family's task uses."""


class Captions:
    """Every prompt of a run, with the empty one, its row and its anchors."""

    def __init__(
        self,
        sets: Mapping[str, CaptionedImages],
        anchors: Mapping[str, Sequence[str]],
        others: Sequence[str] = (),
    ) -> None:
        """Number the prompts.

        Args:
            sets: images by the name of their set, `forget` and `retain` among them.
            anchors: for each forget caption, the prompts to show instead; a caption that is not
                a key gets all anchors.
            others: further prompts.
        """
        all_anchors = tuple(dict.fromkeys(text for texts in anchors.values() for text in texts))
        # What to show instead of each forget caption.
        self.instead = {
            text: tuple(anchors.get(text, all_anchors)) for text in set(sets["forget"].captions)
        }
        captions = {text for images in sets.values() for text in images.captions}
        self.prompts = sorted({"", *captions, *all_anchors, *others})
        self.row = {prompt: index for index, prompt in enumerate(self.prompts)}

    @property
    def empty(self) -> int:
        """Row of the empty prompt."""
        return self.row[""]

    def anchor_rows(self) -> Tensor:
        """Rows of each row's anchors, `[P, A]`; the empty prompt's row if there are none."""
        width = max(len(texts) for texts in self.instead.values())
        rows = torch.full((len(self.prompts), width), self.empty)
        for prompt, texts in self.instead.items():
            cycled = [self.row[texts[k % len(texts)]] for k in range(width)]
            rows[self.row[prompt]] = torch.tensor(cycled)
        return rows


@torch.no_grad()
def encode_with(
    conditions: Conditions,
    pipeline: DiffusionPipeline,
    sets: Mapping[str, CaptionedImages],
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,
    prompts: Sequence[str] = (),
) -> LatentCache:
    """Encode all sets once with the pipeline's VAE, and all captions with its text encoders.

    Args:
        conditions: encodes a list of prompts.
        pipeline: left on `device`.
        sets: images by the name of their set, `forget` and `retain` among them.
        anchors: for each forget caption, the prompts to show instead; a caption that is not a key
            gets all anchors.
        size: pixels a side.
        device: where to compute; the result is on the CPU.
        prompts: further prompts to encode.
    """
    captions = Captions(sets, anchors, prompts)
    pipeline.to(device)
    parts = [
        conditions(pipeline, captions.prompts[start : start + ENCODE_BATCH])
        for start in range(0, len(captions.prompts), ENCODE_BATCH)
    ]
    encoded = {}
    for name, images in sets.items():
        mean, std = _moments(pipeline.vae, images.paths, size)
        rows = torch.tensor([captions.row[text] for text in images.captions])
        encoded[name] = EncodedImages(mean, std, rows)
    tensors = {name: torch.cat([part[name] for part in parts]).float().cpu() for name in parts[0]}
    return LatentCache(
        encoded,
        tensors | word_positions(pipeline.tokenizer, captions.prompts, captions.instead),
        captions.anchor_rows(),
        captions.empty,
        captions.row,
    )


def encode_batch(size: int) -> int:
    """How many images of `size` pixels a side the VAE encodes at once."""
    return max(1, min(ENCODE_BATCH, ENCODE_PIXELS // size**2))


def _moments(vae: Any, paths: Sequence[Path], size: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the images' latents, as the denoiser sees them.

    Both have no rows for a set of captions without images.
    """
    if not paths:
        side = size // 2 ** (len(vae.config.block_out_channels) - 1)
        none = torch.empty(0, vae.config.latent_channels, side, side)
        return none, none
    shift = _by_channel(vae, "latents_mean", getattr(vae.config, "shift_factor", None) or 0.0)
    scale = vae.config.scaling_factor / _by_channel(vae, "latents_std", 1.0)
    means, stds = [], []
    batch = encode_batch(size)
    for start in range(0, len(paths), batch):
        images = torch.stack([load_image(path, size) for path in paths[start : start + batch]])
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        means.append((posterior.mean.float().cpu() - shift) * scale)
        stds.append(posterior.std.float().cpu() * scale)
    return torch.cat(means), torch.cat(stds)


def _by_channel(vae: Any, name: str, otherwise: float) -> Tensor:
    """A statistic that some VAEs' configurations have, `[C, 1, 1]`; else `otherwise`, 0-dim."""
    values = getattr(vae.config, name, None)
    return torch.tensor(values).view(-1, 1, 1) if values is not None else torch.tensor(otherwise)
