"""LUR with an attacker's fine-tuning as the look-ahead, so that relearning does not undo it."""

from dataclasses import dataclass
from typing import ClassVar

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import Recipe, ours
from erase.core.guard import GuardMode, guarded_gradient
from erase.core.meta import Stats
from erase.tasks.method import BaseMethod
from erase.tasks.protocol import Denoiser, Reduce

RECIPES: dict[str, Recipe] = {}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of the guard."""

    alpha: float = option(0.01, "Step size α of the retain look-ahead; 0: none.", least=0)
    attack_rate: float = option(0.3, "Step size β of the attacker.", least=0)
    attack_steps: int = option(1, "Steps K that the attacker takes.", least=1, most=100)
    forget_weight: float = option(1.0, "Weight λ of the forget loss.", least=0)
    meta_mode: GuardMode = option("hvp", "hvp, exact or first-order.")


class Method(BaseMethod):
    """min over θ of L_r(θ) + λ L_f(θ_K), θ_k+1 = θ_k − β ∇L_q(θ_k), θ_0 = θ − α ∇L_r(θ).

    L_q is the denoising loss on D_f under its own conditions: what an attacker who has images of
    the concept trains on, with batches and noise of their own in each of the K steps.
    """

    families: ClassVar = DENOISERS

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The guarded gradient of one step, in `.grad`."""
        losses = task.losses(step)
        settings = self.settings
        return guarded_gradient(
            task.parameters,
            losses.retain,
            losses.forget,
            [
                task.mean_losses("forget", step, task.denoising, f"relearn-{number}")
                for number in range(settings.attack_steps)
            ],
            alpha=settings.alpha,
            beta=settings.attack_rate,
            forget_weight=settings.forget_weight,
            mode=settings.meta_mode,
            precision=task.precision,
            reduce=reduce,
        )
