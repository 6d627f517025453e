"""Stable Diffusion XL: two text encoders, pooled text, and image sizes as further conditions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from erase.data.captioned import CaptionedImages
from erase.tasks import text_to_image
from erase.tasks.encoding import encode_with
from erase.tasks.family import Family, setting
from erase.tasks.latents import LatentCache
from erase.tasks.text_to_image import TextToImageTask


class SDXLTask(TextToImageTask):
    """An SDXL UNet under unlearning."""

    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """Text states ``[B, L, D]``, pooled text ``[B, E]`` and time ids ``[B, 6]``."""
        return {
            "encoder_hidden_states": self.conditions["states"][condition],
            "added_cond_kwargs": {
                "text_embeds": self.conditions["pooled"][condition],
                "time_ids": self.conditions["time_ids"][condition],
            },
        }


def encode(
    pipeline: DiffusionPipeline,
    sets: Mapping[str, CaptionedImages],
    anchors: Mapping[str, Sequence[str]],
    *,
    size: int,
    device: torch.device,
    prompts: Sequence[str] = (),
) -> LatentCache:
    """Encode all sets once with the pipeline's VAE and text encoders; see `encode_with`.

    The size conditions of SDXL (original size, crop corner, target size) are those of an uncropped
    image of `size` pixels, as in rendering.
    """

    def shown(pipeline: DiffusionPipeline, prompts: list[str]) -> dict[str, Tensor]:
        return prompt_conditions(pipeline, prompts, size)

    return encode_with(shown, pipeline, sets, anchors, size=size, device=device, prompts=prompts)


def prompt_conditions(
    pipeline: DiffusionPipeline, prompts: list[str], size: int
) -> dict[str, Tensor]:
    """The text of prompts (`text_states`), and the time ids `[P, 6]` of an uncropped image."""
    time_ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
    return {**text_states(pipeline, prompts), "time_ids": time_ids.repeat(len(prompts), 1)}


def text_states(pipeline: DiffusionPipeline, prompts: list[str]) -> dict[str, Tensor]:
    """`states [P, L, D]`, `pooled [P, E]` and `text [P, L, D]` of prompts.

    `states` and `pooled` are what the pipeline shows the UNet. If the model was trained so
    (`force_zeros_for_empty_prompt`, as SDXL's base model), they are all zeros for the empty prompt:
    guidance steers away from it. `text` is what the encoders say, for the empty prompt too.
    """
    text, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    states = text
    if pipeline.config.force_zeros_for_empty_prompt:
        empty = torch.tensor([not prompt for prompt in prompts], device=states.device)
        states = states.masked_fill(empty[:, None, None], 0.0)
        pooled = pooled.masked_fill(empty[:, None], 0.0)
    return {"states": states, "pooled": pooled, "text": text}


def conditions(folder: Path, rows: int) -> dict[str, Tensor]:
    """Text states, pooled text and time ids without content."""
    states = text_to_image.conditions(folder, rows)["states"]
    return {
        "states": states,
        "text": torch.empty_like(states),
        "pooled": torch.empty(rows, setting(folder, "text_encoder_2", "projection_dim")),
        "time_ids": torch.empty(rows, 6),
    }


FAMILY = Family(
    "StableDiffusionXLPipeline",
    "Stable Diffusion XL",
    SDXLTask,
    encode,
    conditions,
    UNet2DConditionModel,
    frozen=("vae", "text_encoder", "text_encoder_2"),
    texts=prompt_conditions,
)
