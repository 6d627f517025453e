"""LUR: retain-step look-ahead that aligns the two gradients (Patel & Qiu, ICCV 2025, eq. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours
from erase.core.lookahead import AUTO, LookAhead
from erase.core.meta import Mode, Stats, meta_gradient
from erase.errors import InputError
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
    # The paper gives α (figure 5) and λ = 1; its appendix B, with the rates, is not public.
    "nudity": ours("SalUn's schedule", epochs=1, train_batch_size=8, learning_rate=1e-5),
    "class": ours("SalUn's schedule", epochs=5, train_batch_size=8, learning_rate=1e-5),
    "style": ours("SalUn's schedule", epochs=1, train_batch_size=8, learning_rate=1e-5),
    "small": ours("measured on mini-sd over all ten digits: docs/mini-sd.md", forget_weight=0.5),
    "class-conditional": ours(
        "SalUn's schedule",
        **SALUN_DDPM,
        flip=True,
    ),
    "cifar10": ours("found here: docs/classifier.md", epochs=10, learning_rate=1e-3, alpha=AUTO),
    "cifar100": ours("as on CIFAR-10", epochs=10, learning_rate=1e-3, alpha=AUTO),
    "celeba": ours(
        "SHs' schedule; α: docs/classifier.md", epochs=5, learning_rate=2e-4, alpha=AUTO
    ),
    "digits": ours("found here: docs/classifier.md", epochs=5, learning_rate=3.2e-3, alpha=AUTO),
}
SEARCH: dict[str, tuple[float, float]] = {"forget_weight": (0.03, 3.0)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of LUR."""

    alpha: float | str = option(
        0.01,
        "Inner step size α (figure 5: 0.01 is the optimum); or auto, set from the curvature, the"
        " default of classifiers.",
        least=0,
        words=(AUTO,),
    )
    forget_weight: float = option(1.0, "Weight λ of the forget loss (1 in the paper).", least=0)
    meta_mode: Mode | None = option(  # noqa: RUF009
        None, "hvp, exact or first-order; default: the task's own."
    )
    trim: float | None = option(None, TRIM_HELP, least=0, most=1)
    trim_layers: str = option("layer3|layer4|fc", TRIM_LAYERS_HELP)


class Method(RetainForgetMethod):
    """min over θ of L_r(θ) + λ L_f(θ − α ∇L_r(θ))."""

    families: ClassVar = frozenset({"text-to-image", "class-conditional", "classifier"})

    def __init__(self, settings: Settings) -> None:
        if settings.alpha == AUTO and settings.meta_mode in ("first-order", "joint"):
            raise InputError(
                f"alpha is auto, and the mode {settings.meta_mode} makes no curvature product.",
                "Give a number, or --meta-mode hvp or exact.",
            )
        self.settings = settings
        self._lookahead = LookAhead()

    def gradient(self, task: Task, losses: StepLosses, reduce: Reduce | None) -> Stats:
        """The meta-gradient, in `.grad`."""
        auto = self.settings.alpha == AUTO
        stats = meta_gradient(
            task.parameters,
            losses.retain,
            losses.forget,
            alpha=self._lookahead.alpha if auto else float(self.settings.alpha),
            forget_weight=self.settings.forget_weight,
            mode=self.settings.meta_mode or task.meta_mode,
            precision=task.precision,
            measure_curvature=auto,
            reduce=reduce,
        )
        if auto:
            self._lookahead.see(stats)
        return stats

    def state(self) -> dict[str, Tensor]:
        """The average that α is set from."""
        return self._lookahead.state() if self.settings.alpha == AUTO else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the average."""
        if state:
            self._lookahead = LookAhead.of(state)

    def split(self, task: Task, step: int) -> Split:
        """∇L_r, and the rest of the meta-gradient, λ (I − αH_r)∇L_f(θ'); one gradient more."""
        losses = task.losses(step)  # once: batch statistics move with the first call of a closure
        stats = self.gradient(task, losses, None)
        total = [p.grad for p in task.parameters.values() if p.grad is not None]
        retain, _, _ = gradient_of(task, mean_loss(losses.retain))
        return Split(retain, list(torch._foreach_sub(total, retain)), stats)
