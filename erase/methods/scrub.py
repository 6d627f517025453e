"""SCRUB: part from a teacher on the forget set, stay with it elsewhere (Kurmanji et al., 2023)."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.tasks.method import Split, TwoLossMethod, gradient_of
from erase.tasks.protocol import Batch, ClassifierTask

RECIPES: dict[str, Recipe] = {
    # Three epochs, the first two of which begin with an ascent.
    "cifar10": published("SCRUB: small_scale_unlearning, as run", epochs=3, learning_rate=5e-4),
    "cifar100": published("SCRUB: as CIFAR-10", epochs=3, learning_rate=5e-4),
    "celeba": ours("SCRUB's for CIFAR-10", epochs=3, learning_rate=5e-4, forget_batch_size=32),
    "digits": ours("a rate that moves", epochs=5, learning_rate=5e-3, forget_batch_size=32),
}
SEARCH: dict[str, tuple[float, float]] = {"alpha": (1e-3, 1.0)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SCRUB, as its repository sets them."""

    alpha: float = option(0.001, "Weight of the distance to the teacher.")
    gamma: float = option(0.99, "Weight of the cross-entropy on D_r.")
    temperature: float = option(4.0, "Temperature of both softmaxes.", above=0)
    ascent_epochs: int = option(2, "Epochs that begin with a pass of ascent over D_f.", least=0)
    forget_batch_size: int = option(512, "Batch of the ascent.", least=1)


class Method(TwoLossMethod):
    """Alternates passes: away from the teacher on D_f, then α KL(teacher) + γ CE on D_r."""

    families: ClassVar = frozenset({"classifier"})
    settings: Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._teacher: Module | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """Keep the original as the teacher."""
        self._teacher = deepcopy(task.model).eval().requires_grad_(False)

    def _passes(self, task: ClassifierTask) -> tuple[int, int]:
        """Steps of a pass over D_f and of one over D_r."""
        return -(-task.size("forget") // self.settings.forget_batch_size), self.steps_per_epoch(
            task
        )

    def total_steps(self, task: ClassifierTask) -> int:
        """All passes of all epochs."""
        ascent, descent = self._passes(task)
        return min(self.settings.ascent_epochs, task.epochs) * ascent + task.epochs * descent

    def place(self, task: ClassifierTask, step: int) -> tuple[Literal["forget", "retain"], int]:
        """Which pass a step belongs to, and how many steps of that kind came before it."""
        ascent, descent = self._passes(task)
        epoch, inside = divmod(step, ascent + descent)
        if epoch >= self.settings.ascent_epochs:
            return "retain", step - self.settings.ascent_epochs * ascent
        if inside < ascent:
            return "forget", epoch * ascent + inside
        return "retain", epoch * descent + inside - ascent

    def split(self, task: ClassifierTask, step: int) -> Split:
        """The gradient of the pass that the step belongs to; the other part is None."""
        subset, index = self.place(task, step)
        nan = float("nan")
        if subset == "forget":
            batch = task.batch("forget", index, self.settings.forget_batch_size)
            loss = task.fixed(lambda: -self._distance(task, batch)[0], "ascent", index)
            gradients, value, norm = gradient_of(task, loss)
            return Split(None, gradients, Stats(nan, value, norm))
        batch = task.batch("retain", index)

        def descent() -> Tensor:
            distance, logits = self._distance(task, batch)
            fit = cross_entropy(logits, batch.labels).mean()
            return self.settings.alpha * distance + self.settings.gamma * fit

        gradients, value, norm = gradient_of(task, task.fixed(descent, "descent", index))
        return Split(gradients, None, Stats(value, nan, norm))

    def _distance(self, task: ClassifierTask, batch: Batch) -> tuple[Tensor, Tensor]:
        """T² KL(teacher ‖ student), a mean over the batch, and the student's logits."""
        t = self.settings.temperature
        with torch.no_grad():
            teacher = F.log_softmax(task.logits(batch.images, self._teacher) / t, dim=1)
        logits = task.logits(batch.images)
        student = F.log_softmax(logits / t, dim=1)
        distance = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return distance * t**2, logits

    def finish(self, task: ClassifierTask) -> None:  # noqa: ARG002
        """Free the teacher."""
        self._teacher = None
