"""FMN: forget-me-not, take the attention off the concept's words (Zhang et al., 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.attention import AttentionProbe, cross_attentions
from erase.core.meta import Stats
from erase.errors import InputError
from erase.tasks.denoising import forget_gradient
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

_SOURCE: dict[str, Any] = {
    "learning_rate": 2e-6,
    "max_train_steps": 35,
    "max_grad_norm": 1.0,
    "pooler": True,
}
RECIPES: dict[str, Recipe] = {
    "nudity": published("Forget-Me-Not: train_attn.py, its example", **_SOURCE),
    "class": published("Forget-Me-Not: train_attn.py, its example", **_SOURCE),
    "style": published("Forget-Me-Not: train_attn.py, its example", **_SOURCE),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        learning_rate=1e-4,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of FMN."""

    pooler: bool = option(
        False, "Take the attention on the end token too, as the source does by default."
    )


class Method(BaseMethod):
    """Sum of squares of all cross-attention probabilities on the concept's tokens.

    The source takes the norm of all of them over a batch. The gradient of this sum, averaged over
    the batch, points the same way and does not depend on how the batch is cut up. Every place of
    every layer weighs the same, so that layers of many places weigh most.
    """

    families: ClassVar = frozenset({TEXT_TO_IMAGE})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._probe: AttentionProbe | None = None

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Refuse a model without cross-attention on text."""
        cross_attentions(model)

    def prepare(self, task: Denoiser) -> None:
        """Watch the cross-attention layers."""
        if "concept" not in task.conditions:
            raise InputError(
                "It is not known which words of these prompts are the concept.",
                "Render or read the images anew: delete the run's latents.safetensors.",
            )
        self._probe = AttentionProbe(task.model)

    def finish(self, task: Denoiser) -> None:  # noqa: ARG002
        """Watch no longer."""
        if self._probe:
            self._probe.remove()

    def attention(self, task: Denoiser, batch: Noised) -> Tensor:
        """Sum of squares of the probabilities on the tokens, ``[B]``, over layers and places."""
        assert self._probe is not None
        tokens = task.conditions["concept"][batch.condition].float()
        if self.settings.pooler:
            end = (task.conditions["last"][batch.condition] + 1).clamp(max=tokens.shape[1] - 1)
            tokens = tokens.scatter(1, end[:, None], 1.0)
        with self._probe.recording() as layers:
            task.predict(batch)
        return torch.stack(
            [(shares.square() * tokens[:, None, None]).flatten(1).sum(1) for shares in layers]
        ).sum(0)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the attention on the concept, in `.grad`."""
        losses = task.mean_losses("forget", step, lambda batch: self.attention(task, batch))
        gradient, stats = forget_gradient(task, losses, reduce)
        put_gradients(task, gradient)
        return stats
