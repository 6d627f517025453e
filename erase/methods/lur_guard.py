"""LUR with an attacker's fine-tuning as the look-ahead, so that relearning does not undo it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours
from erase.core.attacker import Attacker
from erase.core.guard import GuardMode, guarded_gradient
from erase.core.meta import Stats
from erase.tasks.method import BaseMethod
from erase.tasks.protocol import Denoiser, Reduce

# The attacker's rate is that of `erase attack --attack relearn` for large models; not run.
_LARGE: dict[str, Any] = {
    "frozen_anchor": True,
    "train_batch_size": 8,
    "learning_rate": 1e-5,
    "attack_rate": 1e-5,
}
RECIPES: dict[str, Recipe] = {
    "nudity": ours("SalUn's schedule", epochs=3, **_LARGE),
    "class": ours("SalUn's schedule", epochs=5, **_LARGE),
    "style": ours("SalUn's schedule", epochs=3, **_LARGE),
    "small": ours(
        "found on mini-sd's digit nine: docs/attacks.md", frozen_anchor=True, max_train_steps=450
    ),
    "class-conditional": ours("LUR's schedule", frozen_anchor=True, **SALUN_DDPM, flip=True),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of the guard."""

    attacker: str = option(
        "adam",
        "How the attacker moves: adam, first order; or sgd, whose steps are differentiated"
        " through.",
        ("adam", "sgd"),
    )
    attack_rate: float = option(1e-4, "Learning rate β of the attacker.", least=0)
    attack_restart: int = option(
        75, "Steps M after which the attacker starts anew; 1: in each step.", least=1
    )
    attack_steps: int = option(
        1, "Steps K of the attacker in each step of training.", least=1, most=100
    )
    alpha: float = option(0.0, "Inner step size α of the retain look-ahead; 0: none.", least=0)
    forget_weight: float = option(1.0, "Weight λ of the forget loss.", least=0)
    meta_mode: GuardMode = option("hvp", "hvp, exact or first-order.")  # noqa: RUF009


class Method(BaseMethod):
    """min over θ of L_r(θ) + λ L_f(θ_K), θ_k+1 = θ_k − β d(∇L_q(θ_k)), θ_0 = θ − α ∇L_r(θ) + δ.

    L_q is the denoising loss on D_f under its own conditions: what an attacker who has images of
    the concept trains on, with batches and noise of their own in each step. d is Adam's direction
    or the gradient itself. δ is the attacker's way so far; it is 0 again every M steps.

    With sgd, M = 1, K = 1 and α = 0 this is L_r(θ) + λ L_f(θ − β ∇L_q(θ)), one step of fine-tuning
    looked ahead; on mini-sd it does not hold an attacker up, and one who goes on does
    (docs/attacks.md). Take `frozen_anchor`, as the recipes do: the model's own prediction under
    the anchor moves with the attacker, and L_f stays low there while the concept returns.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._attacker = Attacker(
            restart=settings.attack_restart, adaptive=settings.attacker == "adam"
        )

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The guarded gradient of one step, in `.grad`."""
        settings = self.settings
        losses = task.losses(step)
        self._attacker.begin(step, list(task.parameters.values()))
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
            attacker=self._attacker,
            precision=task.precision,
            reduce=reduce,
        )

    def state(self) -> dict[str, Tensor]:
        """The attacker's way so far."""
        return self._attacker.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the attacker's way."""
        self._attacker.load_state(state)
