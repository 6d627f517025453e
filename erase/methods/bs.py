"""BS: boundary shrinking, D_f moves to its nearest other class (Chen et al., CVPR 2023)."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.tasks.method import BaseMethod, single_loss_step
from erase.tasks.protocol import Batch, ClassifierTask, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SHs paper, CIFAR-10, 10%", epochs=10, learning_rate=1e-6),
    "cifar10:50": published("SHs paper, CIFAR-10, 50%", epochs=10, learning_rate=5e-6),
    "cifar100": published("SHs paper, CIFAR-100, 10%", epochs=10, learning_rate=1e-6),
    "cifar100:50": published("SHs paper, CIFAR-100, 50%", epochs=10, learning_rate=1e-5),
    "celeba": published("SHs paper, CelebA-HQ", epochs=5, learning_rate=1e-5),
    "digits": ours("a rate that moves", epochs=5, learning_rate=1e-4),
}
SEARCH: dict[str, tuple[float, float]] = {}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of BS."""

    bound: float = option(0.1, "Length of the FGSM step, in units of pixels in [0, 1].", least=0)


class Method(BaseMethod):
    """Cross-entropy of D_f with the original's label just across its decision boundary."""

    families: ClassVar = frozenset({"classifier"})
    epoch_over: ClassVar = "forget"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._original: Module | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """Keep a frozen copy of the original, in evaluation mode."""
        self._original = deepcopy(task.model).eval().requires_grad_(False)

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of CE(D_f → boundary label), in `.grad`."""
        batch = task.batch("forget", step)
        labels = self.boundary_labels(task, batch)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(batch.images), labels).mean(), "forget", step
        )
        return single_loss_step(task, loss, reduce, retain=False)

    def boundary_labels(self, task: ClassifierTask, batch: Batch) -> Tensor:
        """The original's labels at x + bound · sign(∇ₓ CE), clamped to real pixels: ``[B]``.

        Images are in [0, 1] here, because the model itself normalises them.
        """
        images = batch.images.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(task.logits(images, self._original), batch.labels).sum()
            (slope,) = torch.autograd.grad(loss, images)
        with torch.no_grad():
            attacked = (batch.images + self.settings.bound * slope.sign()).clamp(0.0, 1.0)
            return task.logits(attacked, self._original).argmax(1)

    def finish(self, task: ClassifierTask) -> None:  # noqa: ARG002
        """Free the copy."""
        self._original = None
