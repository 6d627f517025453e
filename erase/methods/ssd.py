"""SSD: selective synaptic dampening by Fisher importances (Foster et al., AAAI 2024)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.objectives import cross_entropy
from erase.tasks.method import ClosedForm, gradient_of
from erase.tasks.protocol import Batch, ClassifierTask

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SSD paper, ResNet-18", selection=10.0, dampening=1.0),
    "cifar100": published("SSD paper, ResNet-18", selection=10.0, dampening=1.0),
    "celeba": ours("SSD's for ResNet-18", selection=10.0, dampening=1.0),
    "digits": ours("SSD's for ResNet-18", selection=10.0, dampening=1.0),
}
SEARCH: dict[str, tuple[float, float]] = {"selection": (0.5, 100.0), "dampening": (0.1, 10.0)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SSD."""

    selection: float = option(
        10.0, "How many times more important for D_f than for D (α).", least=0
    )
    dampening: float = option(1.0, "Strength λ; larger dampens less.", least=0)
    fisher_batch_size: int = option(
        1, "Samples a squared gradient; 1 is the Fisher diagonal.", least=1
    )


class Method(ClosedForm):
    """Weights with F_f > α F_D are multiplied by min(λ F_D / F_f, 1)."""

    families: ClassVar = frozenset({"classifier"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def prepare(self, task: ClassifierTask) -> None:
        """The whole method: two diagonals in evaluation mode, then the dampening."""
        size = self.settings.fisher_batch_size
        with task.evaluating():
            forget = _importances(task, task.ordered("forget", size=size))
            all_data = _importances(task, task.ordered("forget", "retain", size=size))
        parameters = task.parameters.values()
        for p, f, d in zip(parameters, forget, all_data, strict=True):
            dampen(p, f, d, self.settings)


@torch.no_grad()
def dampen(weight: Tensor, forget: Tensor, all_data: Tensor, settings: Settings) -> None:
    """Dampen one weight tensor in place by its importances for D_f and for D, of its shape."""
    chosen = forget > settings.selection * all_data
    factor = (settings.dampening * all_data / forget.clamp(min=1e-30)).clamp(max=1.0)
    weight.copy_(torch.where(chosen, weight * factor, weight))


def _importances(task: ClassifierTask, batches: Iterable[Batch]) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in task.parameters.values()]
    count = 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007
        gradients, _, _ = gradient_of(task, lambda b=batch: _loss(task, b))  # type: ignore[misc]
        torch._foreach_add_(total, torch._foreach_mul(gradients, gradients))
    return list(torch._foreach_div(total, max(count, 1)))


def _loss(task: ClassifierTask, batch: Batch) -> Tensor:
    return cross_entropy(task.logits(batch.images), batch.labels).mean()
