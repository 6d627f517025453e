"""FMN: forget-me-not, take the attention off the concept's words (Zhang et al., 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.core.attention import AttentionProbe, cross_attentions
from erase.core.meta import Stats
from erase.errors import InputError
from erase.tasks.denoising import forget_gradient
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

DENOISER: dict[str, dict[str, Any]] = {
    # The source's example settings: 35 steps at 2e-6, the whole UNet.
    "large": {"learning_rate": 2e-6, "max_train_steps": 35},
    # The recipe's 1e-4 forgets, and most of the rest with it; 1e-5 and 3e-5 do not forget.
    "small": {},
}


@dataclass(frozen=True)
class Settings(Config):
    """FMN has no settings of its own."""


class Method(BaseMethod):
    """Mean square of the cross-attention probabilities on the concept's tokens.

    The source takes the norm over the whole batch; a mean over samples points the same way and
    does not depend on how a batch is cut up.
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
        """Mean square of the probabilities on the concept's tokens, ``[B]``, over all layers.

        Mean over layers, heads and places; summed over the tokens.
        """
        assert self._probe is not None
        words = task.conditions["concept"][batch.condition].float()[:, None, None, :]
        with self._probe.recording() as layers:
            task.predict(batch)
        return torch.stack(
            [(shares.square() * words).sum(-1).flatten(1).mean(1) for shares in layers]
        ).mean(0)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the attention on the concept, in `.grad`."""
        losses = task.mean_losses("forget", step, lambda batch: self.attention(task, batch))
        gradient, stats = forget_gradient(task, losses, reduce)
        put_gradients(task, gradient)
        return stats
