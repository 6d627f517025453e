"""BE: boundary expanding, the forget set moves into one new class (Chen et al., CVPR 2023)."""

from typing import ClassVar

import torch
from torch import nn

from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.core.rng import generator
from erase.tasks.method import BaseMethod, NoSettings, single_loss_step
from erase.tasks.protocol import ClassifierTask, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SHs paper, CIFAR-10, 10%", epochs=10, learning_rate=1e-6),
    "cifar10:50": published("SHs paper, CIFAR-10, 50%", epochs=10, learning_rate=5e-6),
    "cifar100": published("SHs paper, CIFAR-100, 10%", epochs=10, learning_rate=1e-6),
    "cifar100:50": published("SHs paper, CIFAR-100, 50%", epochs=10, learning_rate=1e-5),
    "celeba": published("SHs paper, CelebA-HQ", epochs=5, learning_rate=1e-5),
    "digits": ours("a rate that moves", epochs=5, learning_rate=1e-4),
}
SEARCH: dict[str, tuple[float, float]] = {}


Settings = NoSettings


class Method(BaseMethod):
    """Cross-entropy of D_f with an extra class K, which is dropped again at the end."""

    families: ClassVar = frozenset({"classifier"})
    epoch_over: ClassVar = "forget"

    @torch.no_grad()
    def prepare(self, task: ClassifierTask) -> None:
        """Add row K, as a fresh layer has it, to the last layer; the others keep their values."""
        old = task.head
        new = _like(old, task.classes + 1)
        bound = old.in_features**-0.5
        source = generator(task.seed, "extra class")
        fresh = (2 * torch.rand(old.in_features + 1, generator=source) - 1) * bound
        new.weight[task.classes] = fresh[:-1].to(old.weight)
        new.weight[: task.classes] = old.weight
        if old.bias is not None:
            new.bias[task.classes] = fresh[-1].to(old.bias)
            new.bias[: task.classes] = old.bias
        task.head = new

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of CE(D_f → K), in `.grad`."""
        batch = task.batch("forget", step)
        labels = torch.full_like(batch.labels, task.classes)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(batch.images), labels).mean(), "forget", step
        )
        return single_loss_step(task, loss, reduce, retain=False)

    @torch.no_grad()
    def finish(self, task: ClassifierTask) -> None:
        """Drop row K, so that the model has its original classes again."""
        wide = task.head
        head = _like(wide, task.classes)
        head.weight.copy_(wide.weight[: task.classes])
        if wide.bias is not None:
            head.bias.copy_(wide.bias[: task.classes])
        task.head = head


def _like(layer: nn.Linear, outputs: int) -> nn.Linear:
    # Every value is set by the caller, so no random number is spent on initial ones.
    empty: nn.Linear = torch.nn.utils.skip_init(
        nn.Linear, layer.in_features, outputs, bias=layer.bias is not None
    )
    return empty.to(layer.weight.device, layer.weight.dtype)
