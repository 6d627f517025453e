"""ESD: steer away from the concept by the frozen model's own guidance (Gandikota et al., 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.core.objectives import mismatch_mse
from erase.tasks.denoising import forget_gradient
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

VARIANTS: dict[str, dict[str, Any]] = {
    # Where no source gives a rate: the best of three settings (benchmarks/diffusion_tuning.py).
    "x": {"trainable": "xattn", "learning_rate": 3e-4},
    "u": {"trainable": "noxattn"},
    "full": {"trainable": "full"},
}
DENOISER: dict[str, dict[str, Any]] = {
    # The first release: 1000 iterations of one image at 1e-5, η 1. (Newer: 200 at 5e-5, η 2.)
    "large": {"learning_rate": 1e-5, "max_train_steps": 1000, "train_batch_size": 1},
    "class-conditional": {"learning_rate": 1e-5, "max_train_steps": 1000, "variant": "full"},
    "small": {"variant": "x"},
}
STARTS = ("condition", "empty")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of ESD."""

    variant: str = option(
        "u",
        "x: cross-attention only (styles); u: all but cross-attention (nudity);"
        " full. What is trained unless --trainable says otherwise.",
        VARIANTS,
    )
    guidance: float = option(1.0, "Negative guidance η (> 0).", above=0)
    start: str = option(
        "condition", "Where the target starts from: condition, ε(c), or empty, ε(∅).", STARTS
    )


class Method(BaseMethod):
    """MSE(ε_θ(x_t|c), ε_0(x_t|c) − η (ε_0(x_t|c) − ε_0(x_t|∅))), with ε_0 the original model.

    x_t are the noised images of the forget set. In the source, the model under training makes x_t
    by denoising.
    """

    families: ClassVar = DENOISERS

    def prepare(self, task: Denoiser) -> None:
        """Keep a frozen copy of the original."""
        task.original  # noqa: B018  # copied when it is first read

    def target(self, task: Denoiser, batch: Noised) -> Tensor:
        """The target prediction under the concept, ``[B, …]``, without a gradient."""
        with torch.no_grad():
            empty = task.predict(
                batch, torch.full_like(batch.condition, task.empty), model=task.original
            )
            concept = task.predict(batch, model=task.original)
            start = concept if self.settings.start == "condition" else empty
            target: Tensor = start - self.settings.guidance * (concept - empty)
        return target

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the distance to the target, in `.grad`."""
        losses = task.mean_losses(
            "forget",
            step,
            lambda batch: mismatch_mse(task.predict(batch), self.target(task, batch)),
        )
        gradient, stats = forget_gradient(task, losses, reduce)
        put_gradients(task, gradient)
        return stats
