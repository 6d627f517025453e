"""UNet Stable Diffusion 1.x and 2.x: one text encoder's states, latents through the VAE."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from erase.tasks.denoiser import DenoiserTask
from erase.tasks.encoding import encode_with
from erase.tasks.family import Family, setting


class TextToImageTask(DenoiserTask):
    """A text-conditional UNet under unlearning (Stable Diffusion 1.x and 2.x)."""

    family: ClassVar[str] = "text-to-image"

    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """The text states of the captions, ``[B, L, D]``."""
        return {"encoder_hidden_states": self.conditions["states"][condition]}


def text_states(pipeline: DiffusionPipeline, prompts: list[str]) -> dict[str, Tensor]:
    """`states [P, L, D]` of prompts, as the pipeline itself computes them."""
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = next(text_encoder.parameters()).device
    return {"states": text_encoder(tokens.input_ids.to(device))[0]}


encode = partial(encode_with, text_states)
"""All sets, once, with the pipeline's VAE and text encoder."""


def conditions(folder: Path, rows: int) -> dict[str, Tensor]:
    """Text states without content, ``[rows, L, D]``."""
    length = setting(folder, "text_encoder", "max_position_embeddings")
    return {"states": torch.empty(rows, length, setting(folder, "unet", "cross_attention_dim"))}


FAMILY = Family(
    "StableDiffusionPipeline",
    "Stable Diffusion 1.x and 2.x",
    TextToImageTask,
    encode,
    conditions,
    UNet2DConditionModel,
    frozen=("vae", "text_encoder"),
    texts=lambda pipeline, prompts, _: text_states(pipeline, prompts),
)
