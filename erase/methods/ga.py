"""GA: gradient ascent on the forget set (Thudi et al., 2022)."""

from typing import ClassVar

from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import negative_cross_entropy
from erase.tasks.method import BaseMethod, NoSettings, single_loss_step
from erase.tasks.protocol import ClassifierTask, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SalUn and SHs papers, CIFAR-10", epochs=5, learning_rate=1e-4),
    "cifar100": published("SalUn and SHs papers, CIFAR-100", epochs=5, learning_rate=1e-4),
    "cifar100:50": published("SHs paper, CIFAR-100, 50%", epochs=10, learning_rate=1e-4),
    "celeba": published("SHs paper, CelebA-HQ", epochs=3, learning_rate=1e-4),
    "digits": ours("CIFAR-10's epochs, a rate that moves", epochs=5, learning_rate=1e-3),
}
SEARCH: dict[str, tuple[float, float]] = {}


Settings = NoSettings


class Method(BaseMethod):
    """Minus the mean of cross-entropy over D_f; an epoch goes over D_f."""

    families: ClassVar = frozenset({"classifier"})
    epoch_over: ClassVar = "forget"

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of −CE on D_f, in `.grad`."""
        batch = task.batch("forget", step)
        loss = task.fixed(
            lambda: negative_cross_entropy(task.logits(batch.images), batch.labels).mean(),
            "forget",
            step,
        )
        return single_loss_step(task, loss, reduce, retain=False)
