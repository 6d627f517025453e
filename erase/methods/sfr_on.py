"""SFR-on: forget fast, repair, keep the sum (Huang et al., NeurIPS 2024)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.core.params import as_list, restore, snapshot
from erase.core.trim import Mask
from erase.tasks.denoising import forget_gradient, retain_gradient, weighted
from erase.tasks.fisher import fisher
from erase.tasks.method import BaseMethod, Split, TwoLossMethod, gradient_of, put_gradients
from erase.tasks.protocol import ClassifierTask, Denoiser, Reduce, Subset

# 1000 iterations of two steps each. The public script's mask has no effect.
_SD: dict[str, Any] = {
    "learning_rate": 1e-5,
    "max_train_steps": 2000,
    "train_batch_size": 2,
    "form": "two-step",
}
RECIPES: dict[str, Recipe] = {
    "nudity": published("SFR-on: SD/train-scripts/nsfw_removal.py and README", **_SD),
    "class": ours("SFR-on's for nudity", **_SD),
    "style": ours("SFR-on's for nudity", **_SD),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py"
    ),
    # The source forgets by an ascent; here the model says what it says under the anchor.
    "class-conditional": published(
        "SFR-on: DDPM/README and cifar10_sfron.yml (but the forget loss)",
        learning_rate=1e-4,
        max_train_steps=300,
        train_batch_size=128,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_grad_norm=1.0,
        flip=True,
        form="two-step",
        forget_weight=10.0,
        decay="cosine",
    ),
    # 1500 iterations of 256 of the 40,500 retain images are 9.5 epochs.
    "cifar10": published(
        "SFR-on: Classification/unlearn/sfron.py",
        epochs=10,
        learning_rate=0.01,
        lr_scheduler="cosine",
    ),
    "cifar100": ours("SFR-on's for CIFAR-10", epochs=10, learning_rate=0.01, lr_scheduler="cosine"),
    "celeba": ours("SFR-on's, SHs' epochs", epochs=5, learning_rate=1e-3, lr_scheduler="cosine"),
    "digits": ours("SFR-on's for CIFAR-10", epochs=10, learning_rate=0.01, lr_scheduler="cosine"),
}
SEARCH: dict[str, tuple[float, float]] = {"forget_weight": (0.5, 100.0)}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SFR-on on classifiers."""

    forget_weight: float = option(25.0, "Weight of the ascent at first (≥ 0).", least=0)
    adaptive: float = option(
        0.5,
        "Power λ of the adaptive weights: a sample's ascent weighs as 1 / loss^λ, in the batch.",
        least=0,
    )
    every: int = option(5, "Retain steps for each step of ascent.", least=1)
    max_norm: float = option(7.0, "Greatest norm of the ascent's gradient; 0: any.", least=0)
    threshold: float = option(
        1.0, "A weight takes part where F_f ≥ threshold × F_r; 0: every weight.", least=0
    )


class Method(TwoLossMethod):
    """An ascent on D_f under a mask, every few descents on D_r; its weight falls as a cosine.

    The mask marks the weights that matter more to the forget set than to the retain set, by the
    diagonals of batches' squared gradients.
    """

    families: ClassVar = frozenset({"classifier"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mask: Mask | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """The mask, from the squared gradients of the two sets."""
        forget, retain = (_diagonal(task, subset) for subset in ("forget", "retain"))
        threshold = self.settings.threshold
        tiny = 1e-15  # as in the source: weights that matter to neither set take part
        masks = [f + tiny >= threshold * (r + tiny) for f, r in zip(forget, retain, strict=True)]
        self._mask = Mask(list(task.parameters.values()), masks)

    def total_steps(self, task: ClassifierTask) -> int:
        """The epochs' retain steps, and the ascents among them."""
        retain = task.epochs * self.steps_per_epoch(task)
        return int(retain + math.ceil(retain / self.settings.every))

    def split(self, task: ClassifierTask, step: int) -> Split:
        """The gradient of the ascent, or of the descent; the other part is None."""
        assert self._mask is not None
        turn, place = divmod(step, self.settings.every + 1)
        nan = math.nan
        if place == 0:
            batch = task.batch("forget", turn)
            progress = step / max(self.total_steps(task), 1)
            weight = self.settings.forget_weight * (1 + math.cos(math.pi * progress)) / 2

            def ascent() -> Tensor:
                losses = cross_entropy(task.logits(batch.images), batch.labels)
                loss: Tensor = -weight * adaptive_mean(losses, self.settings.adaptive)
                return loss

            gradients, value, norm = gradient_of(
                task, task.fixed(ascent, "forget", turn, moves_buffers=True)
            )
            masked = self._mask.gradients(gradients)
            if self.settings.max_norm:
                size = float(torch.stack([g.double().norm() for g in masked]).norm())
                scale = min(1.0, self.settings.max_norm / (size + 1e-6))
                masked = list(torch._foreach_mul(masked, scale))
            return Split(None, masked, Stats(nan, value, norm))
        number = turn * self.settings.every + place - 1
        retain = task.batch("retain", number)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(retain.images), retain.labels).mean(),
            "retain",
            number,
        )
        gradients, value, norm = gradient_of(task, loss)
        return Split(gradients, None, Stats(value, nan, norm))


def adaptive_mean(losses: Tensor, power: float) -> Tensor:
    """Mean of losses ``[B]`` with weights that are proportional to 1 / loss^λ and not trained."""
    weights = 1 / (losses.detach().pow(power) + 1e-15)
    mean: Tensor = (weights / weights.sum() * losses).sum()
    return mean


def _diagonal(task: ClassifierTask, subset: Subset) -> list[Tensor]:
    """Mean over batches of the squared gradient of cross-entropy, evaluation mode."""
    total = [torch.zeros_like(p) for p in task.parameters.values()]
    count = 0
    with task.evaluating():
        for batch in task.ordered(subset):
            gradients, _, _ = gradient_of(
                task,
                lambda b=batch: cross_entropy(task.logits(b.images), b.labels).mean(),  # type: ignore[misc]
            )
            torch._foreach_add_(total, torch._foreach_mul(gradients, gradients))
            count += 1
    return list(torch._foreach_div(total, count))


@dataclass(frozen=True)
class DenoiserSettings(Config):
    """Hyper-parameters of SFR-on on denoisers."""

    form: str = option(
        "joint",
        "joint: one optimizer step along the sum of the two gradients; or two-step, as in the"
        " source: a forget step, then a retain step, which count as two.",
        ("joint", "two-step"),
    )
    forget_weight: float = option(1.0, "Weight of the fast step (≥ 0).", least=0)
    fast_step: float = option(
        0.01, "joint: length of the fast step, along the masked ∇L_f (≥ 0).", least=0
    )
    threshold: float = option(
        1.0, "A weight takes part where F_f ≥ threshold × F_r; 0: every weight.", least=0
    )
    fisher_samples: int = option(500, "Images of each set behind the Fisher diagonals.", least=1)
    decay: str = option(
        "no", "Let the forget weight fall to 0 over the run.", ("no", "linear", "cosine")
    )


class DenoiserMethod(BaseMethod):
    """λ m ⊙ ∇L_f(θ) + ∇L_r(θ − a m ⊙ ∇L_f(θ)): one fast step to forget, one from there to repair.

    m marks the weights that matter more to the forget set than to the retain set. The paper's slow
    weights go part of the way that the fast ones went, which is what the optimizer's step along
    this sum does; the public script gives each of the two an Adam step of its own (`two-step`).
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: DenoiserSettings) -> None:
        self.settings = settings
        self._mask: Mask | None = None

    def prepare(self, task: Denoiser) -> None:
        """The mask, from the Fisher diagonals of the two sets."""
        count = self.settings.fisher_samples
        forget, retain = fisher(task, "forget", count), fisher(task, "retain", count)
        masks = [f >= self.settings.threshold * r for f, r in zip(forget, retain, strict=True)]
        self._mask = Mask(as_list(task.parameters), masks)

    def weight(self, task: Denoiser, step: int) -> float:
        """The forget weight at a step."""
        progress = step / max(task.steps, 1)
        factor = {
            "no": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }[self.settings.decay]
        return float(self.settings.forget_weight * factor)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the step, in `.grad`."""
        assert self._mask is not None
        if self.settings.form == "joint":
            return self._joint(task, step, reduce)
        if step % 2:
            retain_losses = task.mean_losses("retain", step // 2, task.denoising)
            gradient, stats = retain_gradient(task, retain_losses, reduce)
        else:
            forget_losses = task.mean_losses("forget", step // 2, task.mismatch)
            gradient, stats = forget_gradient(task, forget_losses, reduce)
            masked = self._mask.gradients(gradient)
            gradient = list(torch._foreach_mul(masked, self.weight(task, step)))
        put_gradients(task, gradient)
        return stats

    def _joint(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        assert self._mask is not None
        losses = task.mean_losses("forget", step, task.mismatch)
        gradient, forget_stats = forget_gradient(task, losses, reduce)
        forget = self._mask.gradients(gradient)
        parameters = as_list(task.parameters)
        start = snapshot(parameters)
        try:
            with torch.no_grad():
                torch._foreach_add_(parameters, forget, alpha=-self.settings.fast_step)
            retain, stats = retain_gradient(
                task, task.mean_losses("retain", step, task.denoising), reduce
            )
        finally:
            restore(parameters, start)
        put_gradients(task, weighted(retain, forget, self.weight(task, step)))
        return Stats(
            stats.retain_loss,
            forget_stats.forget_loss,
            stats.grad_norm,
            retain_grad_norm=stats.retain_grad_norm,
            forget_grad_norm=forget_stats.forget_grad_norm,
        )
