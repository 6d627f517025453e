"""FT: fine-tune on the retain set and rely on catastrophic forgetting (Warnecke et al., 2023)."""

from typing import ClassVar

from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.tasks.method import BaseMethod, NoSettings, single_loss_step
from erase.tasks.protocol import ClassifierTask, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SalUn and SHs papers, CIFAR-10", epochs=10, learning_rate=0.01),
    "cifar100": published("SalUn and SHs papers, CIFAR-100", epochs=10, learning_rate=0.01),
    "celeba": published("SHs paper, CelebA-HQ", epochs=5, learning_rate=1e-4),
    "digits": ours("CIFAR-10's rate, shorter", epochs=5, learning_rate=0.01),
}
SEARCH: dict[str, tuple[float, float]] = {}


Settings = NoSettings


class Method(BaseMethod):
    """The mean of cross-entropy over D_r, from the original weights."""

    families: ClassVar = frozenset({"classifier"})

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of L_r, in `.grad`."""
        batch = task.batch("retain", step)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(batch.images), batch.labels).mean(), "retain", step
        )
        return single_loss_step(task, loss, reduce, retain=True)
