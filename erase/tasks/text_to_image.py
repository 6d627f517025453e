"""UNet Stable Diffusion: text states in, latents through the VAE; the rest is the denoiser's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import Module

from erase.data.captioned import CaptionedImages, load_image
from erase.tasks.denoiser import DenoiserTask, EncodedImages, LatentCache

ENCODE_BATCH = 16


class TextToImageTask(DenoiserTask):
    """A text-conditional UNet under unlearning (Stable Diffusion 1.x and 2.x)."""

    family: ClassVar[str] = "text-to-image"

    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """The text states of the captions, ``[B, L, D]``."""
        return {"encoder_hidden_states": self.conditions["states"][condition]}


@torch.no_grad()
def encode(
    pipeline: DiffusionPipeline,
    sets: Mapping[str, CaptionedImages],
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,
) -> LatentCache:
    """Encode all sets once with the pipeline's VAE and text encoder.

    Args:
        sets: images by the name of their set, `forget` and `retain` among them.
        anchors: for each forget caption, the prompts to show instead; a caption that is not a key
            takes them from all anchors together.
        size: pixels a side.
    """
    every_anchor = tuple(dict.fromkeys(text for texts in anchors.values() for text in texts))
    forgotten = set(sets["forget"].captions)
    instead = {text: tuple(anchors.get(text, every_anchor)) for text in forgotten}
    captions = {text for images in sets.values() for text in images.captions}
    prompts = sorted({"", *captions, *every_anchor})
    row = {prompt: index for index, prompt in enumerate(prompts)}

    text_encoder = pipeline.text_encoder.to(device)
    states = torch.cat(
        [
            _text_states(pipeline.tokenizer, text_encoder, prompts[start : start + ENCODE_BATCH])
            for start in range(0, len(prompts), ENCODE_BATCH)
        ]
    )
    width = max(len(texts) for texts in instead.values())
    anchor_rows = torch.full((len(prompts), width), row[""])
    for prompt, texts in instead.items():
        cycled = [row[texts[k % len(texts)]] for k in range(width)]
        anchor_rows[row[prompt]] = torch.tensor(cycled)

    vae = pipeline.vae.to(device)
    encoded = {}
    for name, images in sets.items():
        mean, std = _moments(vae, images.paths, size)
        condition = torch.tensor([row[text] for text in images.captions])
        encoded[name] = EncodedImages(mean, std, condition)
    return LatentCache(encoded, {"states": states}, anchor_rows, row[""])


def _text_states(tokenizer: Any, text_encoder: Module, prompts: list[str]) -> Tensor:
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = next(text_encoder.parameters()).device
    states: Tensor = text_encoder(tokens.input_ids.to(device))[0]
    return states.float().cpu()


def _moments(vae: Any, paths: Sequence[Path], size: int) -> tuple[Tensor, Tensor]:
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scale = vae.config.scaling_factor
    means, stds = [], []
    for start in range(0, len(paths), ENCODE_BATCH):
        images = torch.stack(
            [load_image(path, size) for path in paths[start : start + ENCODE_BATCH]]
        )
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        means.append(((posterior.mean - shift) * scale).float().cpu())
        stds.append((posterior.std * scale).float().cpu())
    return torch.cat(means), torch.cat(stds)
