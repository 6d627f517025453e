"""LUR-b: the two losses simply added, no look-ahead (the paper's appendix B.2, eq. 1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours
from erase.core.meta import Stats, meta_gradient
from erase.tasks.method import (
    TRIM_HELP,
    TRIM_LAYERS_HELP,
    RetainForgetMethod,
    Split,
    gradient_of,
    mean_loss,
)
from erase.tasks.protocol import Reduce, StepLosses, Task

RECIPES: dict[str, Recipe] = {
    # As LUR: the two differ in the inner step alone.
    "nudity": ours("SalUn's schedule", epochs=1, train_batch_size=8, learning_rate=1e-5),
    "class": ours("SalUn's schedule", epochs=5, train_batch_size=8, learning_rate=1e-5),
    "style": ours("SalUn's schedule", epochs=1, train_batch_size=8, learning_rate=1e-5),
    "small": ours("measured on mini-sd over all ten digits: docs/mini-sd.md", forget_weight=0.5),
    "class-conditional": ours(
        "SalUn's schedule",
        **SALUN_DDPM,
        flip=True,
    ),
    "cifar10": ours("found here: docs/classifier.md", epochs=10, learning_rate=1e-3),
    "cifar100": ours("as on CIFAR-10", epochs=10, learning_rate=1e-3),
    "celeba": ours("SHs' schedule", epochs=5, learning_rate=2e-4),
    "digits": ours("found here: docs/classifier.md", epochs=5, learning_rate=1e-3),
}
SEARCH: dict[str, tuple[float, float]] = {
    "forget_weight": (0.03, 3.0),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of LUR-b."""

    forget_weight: float = option(1.0, "Weight λ of the forget loss (1 in the paper).", least=0)
    trim: float | None = option(None, TRIM_HELP, least=0, most=1)
    trim_layers: str = option("layer3|layer4|fc", TRIM_LAYERS_HELP)


class Method(RetainForgetMethod):
    """min over θ of L_r(θ) + λ L_f(θ)."""

    families: ClassVar = frozenset({"text-to-image", "class-conditional", "classifier"})

    def gradient(self, task: Task, losses: StepLosses, reduce: Reduce | None) -> Stats:
        """The gradient of the sum, in `.grad`."""
        return meta_gradient(
            task.parameters,
            losses.retain,
            losses.forget,
            alpha=0.0,
            forget_weight=self.settings.forget_weight,
            mode="joint",
            reduce=reduce,
        )

    def split(self, task: Task, step: int) -> Split:
        """∇L_r and λ∇L_f."""
        losses = task.losses(step)
        retain, l_retain, r_norm = gradient_of(task, mean_loss(losses.retain))
        forget, l_forget, f_norm = gradient_of(task, mean_loss(losses.forget))
        weighted = list(torch._foreach_mul(forget, self.settings.forget_weight))
        return Split(retain, weighted, Stats(l_retain, l_forget, 0.0, r_norm, f_norm))
