"""EraseDiff: retain, and descend on the forget loss as fast as asked (Wu et al., CVPR 2025)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import noise_mse
from erase.core.params import restore, snapshot
from erase.tasks.denoising import forget_gradient, two_gradients, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Loss, Noised, Reduce

RECIPES: dict[str, Recipe] = {
    # Epochs count the inner passes too: 5 × (2 + 1), and 2 × (1 + 1).
    "nudity": published(
        "EraseDiff: sd/train_scripts/train_nsfw.sh",
        learning_rate=1e-5,
        epochs=15,
        train_batch_size=16,
        trainable="noxattn",
        forget_weight=1.0,
        inner_passes=2,
    ),
    "class": published(
        "EraseDiff: sd/train_scripts/train_cls.sh",
        learning_rate=1e-5,
        epochs=4,
        train_batch_size=16,
        trainable="full",
        forget_weight=1.0,
        inner_passes=1,
    ),
    "style": ours(
        "EraseDiff's for a class",
        learning_rate=1e-5,
        epochs=4,
        train_batch_size=16,
        trainable="full",
        forget_weight=1.0,
        inner_passes=1,
    ),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        rule="fixed",
        forget_weight=1.0,
    ),
    "class-conditional": published(
        "EraseDiff: ddpm/configs/cifar10_erasediff.yml",
        learning_rate=1e-4,
        max_train_steps=160,
        train_batch_size=128,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_grad_norm=1.0,
        ema_decay=0.99,
        flip=True,
        forget_weight=0.1,
        target="noise",
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of EraseDiff."""

    rule: str = option(
        "fixed",
        "Weight of the forget gradient: fixed, λ (the public runs); or adaptive, the least with"
        " which the step descends on L_f by η ‖∇L_f‖² (the paper's rule, BOME).",
        ("fixed", "adaptive"),
    )
    forget_weight: float = option(1.0, "λ of the fixed rule (≥ 0).", least=0)
    eta: float = option(0.1, "η of the adaptive rule (≥ 0).", least=0)
    inner_passes: int = option(
        0,
        "Passes over the forget set before each outer one that train on L_f alone and are then"
        " undone, except in Adam's moments (the public runs: 1 or 2). Their steps count.",
        least=0,
    )
    target: str = option(
        "anchor",
        "What to say under the concept: anchor, what is said under the anchor; or"
        " noise, uniform in [0, 1] (the source on DDPM).",
        ("anchor", "noise"),
    )


class Method(BaseMethod):
    """∇L_r + μ ∇L_f with μ = λ, or the least μ ≥ 0 at which the step descends on L_f as asked.

    In the bilevel problem of the source, the value of L_f after the inner steps is a constant and
    has no gradient; but the inner steps have moved the moments of the same Adam.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._start: list[Tensor] = []
        self._undo = False

    def _is_inner(self, task: Denoiser, step: int) -> tuple[bool, bool, bool]:
        """Whether a step is an inner one, and the first or the last of its round."""
        one_pass = math.ceil(task.size("forget") / task.batch_size)
        inner = self.settings.inner_passes * one_pass
        place = step % (inner + one_pass)
        return place < inner, inner > 0 and place == 0, inner > 0 and place == inner - 1

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the step, in `.grad`."""
        inner, first, self._undo = self._is_inner(task, step)
        if first:
            self._start = snapshot(task.parameters)
        forget_losses = self._forget(task, step)
        if inner:
            gradient, stats = forget_gradient(task, forget_losses, reduce)
            put_gradients(task, gradient)
            return stats
        retain, forget, stats = two_gradients(
            task, task.mean_losses("retain", step, task.denoising), forget_losses, reduce
        )
        weight = self.settings.forget_weight
        if self.settings.rule == "adaptive":
            weight = multiplier(retain, forget, self.settings.eta)
        put_gradients(task, weighted(retain, forget, weight))
        return stats

    def after_step(self, task: Denoiser) -> None:
        """After a round's last inner step, put the weights back."""
        if self._undo:
            restore(task.parameters, self._start)

    def state(self) -> dict[str, Tensor]:
        """The weights at the start of the round."""
        return {f"start.{number}": tensor for number, tensor in enumerate(self._start)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights at the start of the round."""
        self._start = [state[f"start.{number}"] for number in range(len(state))]

    def _forget(self, task: Denoiser, step: int) -> Sequence[Loss]:
        if self.settings.target == "anchor":
            return task.mean_losses("forget", step, task.mismatch)
        # Uniform in [0, 1], made of normal values that x_t was not made of.
        others = task.batches("forget", step, "target")
        batches = [
            replace(batch, noise=(1 + (other.noise / 2**0.5).erf()) / 2)
            for batch, other in zip(task.batches("forget", step), others, strict=True)
        ]
        return task.mean_losses("forget", step, _to_noise(task), batches=batches)


def _to_noise(task: Denoiser) -> Any:
    def distance(batch: Noised) -> Tensor:
        return noise_mse(task.predict(batch), batch.noise)

    return distance


def multiplier(retain: list[Tensor], forget: list[Tensor], eta: float) -> float:
    """The least μ ≥ 0 with (∇L_r + μ∇L_f) · ∇L_f ≥ η ‖∇L_f‖²; 0 where ∇L_f vanishes."""
    dot = sum(float((r.double() * f.double()).sum()) for r, f in zip(retain, forget, strict=True))
    size = sum(float(f.double().square().sum()) for f in forget)
    return max(0.0, eta - dot / size) if size > 0 else 0.0
