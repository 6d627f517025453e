"""Stable Diffusion 3: a flow-matching transformer, so velocity as target and other timesteps."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
)
from torch import Tensor
from torch.nn import Module

from erase.tasks.encoding import encode_with
from erase.tasks.family import Family, setting
from erase.tasks.protocol import Noised
from erase.tasks.text_to_image import TextToImageTask

T5_TOKENS = 256
"""How many states the pipeline appends to CLIP's, by default; zeros where there is no T5."""


class SD3Task(TextToImageTask):
    """An SD3 transformer under unlearning.

    Rectified flow (Esser et al. 2024, eqs. 1, 13): x_t = (1 − σ) x_0 + σ ε. The model predicts
    ε − x_0 at the timestep 1000 σ. Timesteps come from the logit-normal density (their
    section 3.1) through the model's own shift of σ.
    """

    def timesteps(self, count: int, source: torch.Generator) -> Tensor:
        """Timesteps ``[count]``, floats from 0 to 1000."""
        timesteps = self.scheduler.timesteps  # falling
        place = torch.sigmoid(torch.randn(count, generator=source))
        chosen: Tensor = timesteps[(place * len(timesteps)).long().clamp(max=len(timesteps) - 1)]
        return chosen

    def sampler(self) -> Any:
        """The flow's Euler steps, as the pipeline takes them."""
        return FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at their timesteps, ``[B, …]``."""
        sigma: Tensor = (timesteps / self.scheduler.config.num_train_timesteps).to(clean.dtype)
        sigma = sigma.view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma) * clean + sigma * noise

    def target(self, batch: Noised) -> Tensor:
        """The velocity ε − x_0, ``[B, …]``."""
        return batch.noise - batch.clean

    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """Text states ``[B, L, D]`` and pooled text ``[B, E]``."""
        return {
            "encoder_hidden_states": self.conditions["states"][condition],
            "pooled_projections": self.conditions["pooled"][condition],
        }

    def forward(self, model: Module, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """The transformer's prediction ``[B, …]``."""
        prediction: Tensor = model(
            hidden_states=noisy, timestep=timesteps, return_dict=False, **self.arguments(condition)
        )[0]
        return prediction


@torch.no_grad()
def text_states(pipeline: DiffusionPipeline, prompts: list[str]) -> dict[str, Tensor]:
    """`states [P, L, D]` and `pooled [P, E]` of prompts, as the pipeline itself computes them."""
    states, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False
    )
    return {"states": states, "pooled": pooled}


encode = partial(encode_with, text_states)
"""All sets, once, with the pipeline's VAE and text encoders."""


def conditions(folder: Path, rows: int) -> dict[str, Tensor]:
    """Text states and pooled text without content."""
    length = setting(folder, "text_encoder", "max_position_embeddings") + T5_TOKENS
    states, pooled = (
        setting(folder, "transformer", name)
        for name in ("joint_attention_dim", "pooled_projection_dim")
    )
    return {"states": torch.empty(rows, length, states), "pooled": torch.empty(rows, pooled)}


FAMILY = Family(
    "StableDiffusion3Pipeline",
    "Stable Diffusion 3",
    SD3Task,
    encode,
    conditions,
    SD3Transformer2DModel,
    component="transformer",
    scheduler=FlowMatchEulerDiscreteScheduler,
    frozen=("vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
)
