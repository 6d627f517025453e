"""Head only: the features stay as they are; a baseline that fools metrics of outputs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours
from erase.core.meta import Stats, meta_gradient
from erase.core.objectives import cross_entropy, negative_cross_entropy
from erase.tasks.method import BaseMethod
from erase.tasks.protocol import Batch, ClassifierTask, Loss, Reduce

REASON = "a baseline of our own; LUR-b's epochs, a rate that moves one layer"
RECIPES: dict[str, Recipe] = {
    "cifar10": ours(REASON, epochs=10, learning_rate=0.01),
    "cifar100": ours(REASON, epochs=10, learning_rate=0.01),
    "celeba": ours(REASON, epochs=5, learning_rate=1e-3),
    "digits": ours(REASON, epochs=5, learning_rate=0.01),
}
SEARCH: dict[str, tuple[float, float]] = {"forget_weight": (0.03, 3.0)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of the head-only baseline."""

    forget_weight: float = option(1.0, "Weight λ of the forget loss.", least=0)


class Method(BaseMethod):
    """L_r + λ L_f, LUR-b's loss (equations 9 and 10), over the last linear layer alone.

    All layers before it are frozen and in evaluation mode, so the features keep everything that the
    original knew of D_f: IDI is 1 to the last digit, whatever UA and MIA say. Jeon et al. (2024)
    showed with a baseline of this kind that metrics of outputs do not see it.
    """

    families: ClassVar = frozenset({"classifier"})
    settings: Settings

    def prepare(self, task: ClassifierTask) -> None:
        """Freeze everything but the head."""
        task.freeze_features()

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the sum with respect to the head, in `.grad`."""
        retain, forget = task.batch("retain", step), task.batch("forget", step)

        def mean(batch: Batch, sign: int) -> Loss:
            def loss() -> Tensor:
                with task.evaluating():
                    logits = task.logits(batch.images)
                each = cross_entropy if sign > 0 else negative_cross_entropy
                return each(logits, batch.labels).mean()

            return loss

        return meta_gradient(
            task.parameters,
            mean(retain, 1),
            mean(forget, -1),
            alpha=0.0,
            forget_weight=self.settings.forget_weight,
            mode="joint",
            reduce=reduce,
        )
