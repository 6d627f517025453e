"""SFR-on: forget fast, repair, keep the sum (Huang et al., NeurIPS 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.core.params import as_list, restore, snapshot
from erase.core.trim import Mask
from erase.tasks.denoising import fisher, forget_gradient, retain_gradient, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Reduce

DENOISER: dict[str, dict[str, Any]] = {
    # The public script's: 1000 iterations at 1e-5. It gives no threshold of the mask.
    "large": {"learning_rate": 1e-5, "max_train_steps": 1000},
    # The paper forgets a CIFAR-10 class in 50 steps.
    "class-conditional": {"learning_rate": 1e-4, "max_train_steps": 50},
    "small": {},  # the best of three on mini-sd's digit nine: benchmarks/diffusion_tuning.py
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SFR-on."""

    forget_weight: float = option(1.0, "Weight of the fast step (≥ 0).", least=0)
    fast_step: float = option(
        0.01, "Length of the fast step, along the masked ∇L_f (≥ 0).", least=0
    )
    threshold: float = option(
        1.0, "A weight takes part where F_f ≥ threshold × F_r; 0: every weight.", least=0
    )
    fisher_samples: int = option(500, "Images of each set behind the Fisher diagonals.", least=1)
    decay: bool = option(False, "Let the fast step's weight go to 0 over the run.")


class Method(BaseMethod):
    """λ m ⊙ ∇L_f(θ) + ∇L_r(θ − a m ⊙ ∇L_f(θ)): one fast step to forget, one from there to repair.

    m marks the weights that matter more to the forget set than to the retain set. The paper's slow
    weights go part of the way that the fast ones went, which is what the optimizer's step along
    this sum does; the public script gives each of the two an Adam step of its own.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mask: Mask | None = None

    def prepare(self, task: Denoiser) -> None:
        """The mask, from the Fisher diagonals of the two sets."""
        count = self.settings.fisher_samples
        forget, retain = fisher(task, "forget", count), fisher(task, "retain", count)
        masks = [f >= self.settings.threshold * r for f, r in zip(forget, retain, strict=True)]
        self._mask = Mask(as_list(task.parameters), masks)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The sum of both gradients, in `.grad`."""
        assert self._mask is not None
        losses = task.mean_losses("forget", step, task.mismatch)
        gradient, forget_stats = forget_gradient(task, losses, reduce)
        forget = self._mask.gradients(gradient)
        parameters = as_list(task.parameters)
        start = snapshot(parameters)
        try:
            with torch.no_grad():
                torch._foreach_add_(parameters, forget, alpha=-self.settings.fast_step)
            retain, stats = retain_gradient(
                task, task.mean_losses("retain", step, task.denoising), reduce
            )
        finally:
            restore(parameters, start)
        decay = 1 - step / max(task.steps, 1) if self.settings.decay else 1.0
        total: list[Tensor] = weighted(retain, forget, self.settings.forget_weight * decay)
        put_gradients(task, total)
        return Stats(
            stats.retain_loss,
            forget_stats.forget_loss,
            stats.grad_norm,
            retain_grad_norm=stats.retain_grad_norm,
            forget_grad_norm=forget_stats.forget_grad_norm,
        )
