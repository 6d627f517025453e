"""ℓ1-sparse: fine-tuning with a fading ℓ1 penalty (Jia et al., NeurIPS 2023)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.tasks.method import BaseMethod, single_loss_step
from erase.tasks.protocol import ClassifierTask, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SHs paper, CIFAR-10", epochs=10, learning_rate=0.01, alpha=1e-4),
    "cifar100": published("SHs paper, CIFAR-100, 10%", epochs=10, learning_rate=0.01, alpha=1e-4),
    "cifar100:50": published(
        "SHs paper, CIFAR-100, 50%", epochs=10, learning_rate=0.01, alpha=2e-4
    ),
    "celeba": published("SHs paper, CelebA-HQ", epochs=3, learning_rate=1e-3, alpha=1e-3),
    "digits": ours("CIFAR-10's, shorter", epochs=5, learning_rate=0.01, alpha=1e-4),
}
SEARCH: dict[str, tuple[float, float]] = {"alpha": (1e-6, 1e-2)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of ℓ1-sparse."""

    alpha: float = option(1e-4, "Weight α of the penalty at first (≥ 0).", least=0)


class Method(BaseMethod):
    """CE(D_r) + α (1 − e/E) ‖θ‖₁ in epoch e of E, counted from 0."""

    families: ClassVar = frozenset({"classifier"})
    settings: Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def weight(self, task: ClassifierTask, step: int) -> float:
        """The penalty's weight at a step: constant within an epoch, falling linearly over them."""
        epoch = step // self.steps_per_epoch(task)
        return self.settings.alpha * (1 - epoch / task.epochs)

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the penalised loss, in `.grad`; penalty included in the reported loss."""
        batch = task.batch("retain", step)
        weight = self.weight(task, step)

        def loss() -> Tensor:
            fit = cross_entropy(task.logits(batch.images), batch.labels).mean()
            size = torch.stack([p.abs().sum() for p in task.parameters.values()]).sum()
            return fit + weight * size

        return single_loss_step(task, task.fixed(loss, "retain", step), reduce, retain=True)
