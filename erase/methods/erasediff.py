"""EraseDiff: retain, and descend on the forget loss as fast as asked (Wu et al., CVPR 2025)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.core.objectives import noise_mse
from erase.tasks.denoising import two_gradients, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

DENOISER: dict[str, dict[str, Any]] = {
    # The public code's for nudity: 5 epochs of 800 images in batches of 16, all but
    # cross-attention.
    "large": {
        "learning_rate": 1e-5,
        "max_train_steps": 250,
        "train_batch_size": 16,
        "trainable": "noxattn",
    },
    "class-conditional": {"target": "noise"},
    "small": {},  # η 0.1 was the best of three on mini-sd's digit nine too
}
TARGETS = ("anchor", "noise")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of EraseDiff."""

    eta: float = option(0.1, "Least share η of the forget gradient in the step (≥ 0).", least=0)
    target: str = option(
        "anchor",
        "What to say under the concept: anchor, what is said under the anchor; or"
        " noise, uniform in [0, 1] (the source on DDPM).",
        TARGETS,
    )


class Method(BaseMethod):
    """∇L_r + μ ∇L_f with the least μ ≥ 0 at which the step descends on L_f by η ‖∇L_f‖².

    The solution of the source's bilevel problem by its first-order rule (BOME): the value of L_f
    after its inner steps is a constant there and does not enter the gradient, so that the inner
    steps are left out.
    """

    families: ClassVar = DENOISERS

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The combined gradient, in `.grad`."""
        each = task.mismatch if self.settings.target == "anchor" else _to_noise(task)
        retain, forget, stats = two_gradients(
            task,
            task.mean_losses("retain", step, task.denoising),
            task.mean_losses("forget", step, each),
            reduce,
        )
        put_gradients(task, weighted(retain, forget, multiplier(retain, forget, self.settings.eta)))
        return stats


def multiplier(retain: list[Tensor], forget: list[Tensor], eta: float) -> float:
    """The least μ ≥ 0 with (∇L_r + μ∇L_f) · ∇L_f ≥ η ‖∇L_f‖²; 0 where ∇L_f vanishes."""
    dot = sum(float((r.double() * f.double()).sum()) for r, f in zip(retain, forget, strict=True))
    size = sum(float(f.double().square().sum()) for f in forget)
    return max(0.0, eta - dot / size) if size > 0 else 0.0


def _to_noise(task: Denoiser) -> Any:
    def each(batch: Noised) -> Tensor:
        # Uniform in [0, 1], made of the batch's own noise: nothing more has to be drawn.
        uniform = (1 + (batch.noise / 2**0.5).erf()) / 2
        return noise_mse(task.predict(batch), uniform)

    return each
