"""MUNBa: both gradients gain alike, by Nash bargaining in closed form (Wu & Harandi, ICCV 2025)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.core.params import as_list
from erase.core.phases import dot, norm
from erase.core.rng import generator
from erase.tasks.denoising import two_gradients
from erase.tasks.method import BaseMethod, Split, TwoLossMethod, gradient_of, put_gradients
from erase.tasks.protocol import ClassifierTask, Denoiser, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published(
        "MUNBa: Classification/arg_parser.py, its defaults", epochs=10, learning_rate=0.01
    ),
    "cifar100": published(
        "MUNBa: Classification/arg_parser.py, its defaults", epochs=10, learning_rate=0.01
    ),
    "celeba": ours("SHs' epochs, a tenth of MUNBa's rate", epochs=5, learning_rate=1e-3),
    "digits": ours("MUNBa's rate on CIFAR-10, shorter", epochs=5, learning_rate=0.01),
    "nudity": published(
        "MUNBa: SD/train.sh",
        learning_rate=1e-5,
        epochs=1,
        train_batch_size=4,
        trainable="noxattn",
        max_grad_norm=1.0,
        l1=1e-4,
    ),
    "class": published(
        "MUNBa: SD/MUNBa_cls.py, the command at its end",
        learning_rate=1e-5,
        epochs=2,
        train_batch_size=4,
        trainable="xattn",
        max_grad_norm=1.0,
        l1=1e-4,
        l1_decay=True,
    ),
    "style": ours(
        "MUNBa's for a class",
        learning_rate=1e-5,
        epochs=2,
        train_batch_size=4,
        trainable="xattn",
        max_grad_norm=1.0,
        l1=1e-4,
        l1_decay=True,
    ),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        learning_rate=3e-5,
        l1=0.0,
    ),
    "class-conditional": ours(
        "SalUn's schedule",
        **SALUN_DDPM,
        flip=True,
    ),
}
SEARCH: dict[str, tuple[float, float]] = {}
PARALLEL = 1e-6
"""Least 1 + cosine of two gradients that can bargain; below it they are opposite."""


def bargain(retain: list[Tensor], forget: list[Tensor]) -> tuple[float, float] | None:
    """The weights α_r, α_f of the two gradients; None where there is no agreement.

    Nash's solution maximises log⟨g_r, g⟩ + log⟨g_f, g⟩ over g = α_r g_r + α_f g_f, which asks that
    GᵀG α = 1/α for G = [g_r, g_f]. The two equations give α_r ‖g_r‖ = α_f ‖g_f‖ and

        α_r = 1 / (‖g_r‖ √(1 + cos)),        α_f = 1 / (‖g_f‖ √(1 + cos)),

    the same values as the closed form of the source. So g is the sum of the two unit vectors over
    √(1 + cos). Its norm is √2 always, and it does not change when a loss is multiplied by a number.
    There is no agreement when a gradient vanishes or when they are opposite. (The source adds 1e-8
    to its denominators, which changes the weights where gradients are small; that is left out.)
    """
    sizes = norm(retain), norm(forget)
    if not all(sizes):
        return None
    together = 1 + dot(retain, forget) / (sizes[0] * sizes[1])
    if together < PARALLEL:
        return None
    return 1 / (sizes[0] * math.sqrt(together)), 1 / (sizes[1] * math.sqrt(together))


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of MUNBa on classifiers."""

    disagreement_weight: float = option(
        0.1, "Weight of the forget gradient where the two find no agreement.", least=0
    )
    max_norm: float = option(1.0, "Greatest norm of the gradient of a joint step; 0: any.", least=0)


class Method(TwoLossMethod):
    """Bargains CE on D_r against CE on D_f with labels drawn evenly from all classes.

    An epoch is a pass over the longer set. A step is joint while there are forget batches, then it
    is plain fine-tuning on D_r, as in the source. There a drawn label may be the true one, too.
    """

    families: ClassVar = frozenset({"classifier"})
    settings: Settings

    def steps_per_epoch(self, task: ClassifierTask) -> int:
        """Batches of the longer set."""
        return max(_batches(task, "forget"), _batches(task, "retain"))

    def split(self, task: ClassifierTask, step: int) -> Split:
        """α_r ∇L_r and α_f ∇L_f, clipped together; the forget part is None in a plain step."""
        retain, l_retain, r_norm = self._gradient(task, "retain", step)
        epoch, place = divmod(step, self.steps_per_epoch(task))
        joint = _batches(task, "forget")
        if place >= joint:
            return Split(retain, None, Stats(l_retain, math.nan, r_norm, r_norm))
        forget, l_forget, f_norm = self._gradient(task, "forget", epoch * joint + place)
        weights = bargain(retain, forget) or (1.0, self.settings.disagreement_weight)
        parts = [
            list(torch._foreach_mul(gradient, weight))
            for gradient, weight in zip((retain, forget), weights, strict=True)
        ]
        size = norm(list(torch._foreach_add(*parts)))
        if 0 < self.settings.max_norm < size:
            for part in parts:
                torch._foreach_mul_(part, self.settings.max_norm / size)
        cosine = dot(retain, forget) / (r_norm * f_norm) if r_norm * f_norm > 0 else 0.0
        stats = Stats(l_retain, l_forget, size, r_norm, f_norm, cosine)
        return Split(parts[0], parts[1], stats)

    def _gradient(
        self, task: ClassifierTask, subset: str, number: int
    ) -> tuple[list[Tensor], float, float]:
        """Gradient, value and norm of the loss on a batch of a set."""
        forgets = subset == "forget"
        batch = task.batch("forget" if forgets else "retain", number)
        labels = batch.labels
        if forgets:
            source = generator(task.seed, number, "bargaining labels")
            labels = torch.randint(task.classes, labels.shape, generator=source).to(labels.device)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(batch.images), labels).mean(),
            subset,
            number,
            moves_buffers=not forgets,
        )
        return gradient_of(task, loss)


def _batches(task: ClassifierTask, subset: str) -> int:
    return math.ceil(task.size("forget" if subset == "forget" else "retain") / task.batch_size)


@dataclass(frozen=True)
class DenoiserSettings(Config):
    """Hyper-parameters of MUNBa on denoisers."""

    disagreement_weight: float = option(
        0.5, "Weight of the forget gradient where the two find no agreement.", least=0
    )
    l1: float = option(0.0, "Weight of ‖θ‖₁, added after the bargain (≥ 0).", least=0)
    l1_decay: bool = option(False, "Let it fall by epochs, e of E: l1 (1 − e/E).")


class DenoiserMethod(BaseMethod):
    """Bargains L_r against MSE(ε_θ(x_t|c), sg ε_θ(x_t|c')); then adds l1 ∇‖θ‖₁.

    The source multiplies the forget loss by β, which the bargain divides out again. Its script for
    nudity bargains by the gradient of the first layer alone; here it is that of all layers, as
    in its script for classes and in the paper.
    """

    families: ClassVar = DENOISERS
    settings: DenoiserSettings

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The bargained gradient, in `.grad`."""
        losses = task.losses(step)
        retain, forget, stats = two_gradients(
            task, losses.retain, task.mean_losses("forget", step, task.mismatch), reduce
        )
        weights = bargain(retain, forget) or (1.0, self.settings.disagreement_weight)
        total = _weighted_sum((retain, forget), weights)
        if self.settings.l1:
            signs = [p.detach().sign() for p in as_list(task.parameters)]
            torch._foreach_add_(total, signs, alpha=self.penalty(task, step))
        put_gradients(task, total)
        return replace(stats, grad_norm=norm(total))

    def penalty(self, task: Denoiser, step: int) -> float:
        """Weight of ‖θ‖₁ in a step; an epoch is a pass over the forget set."""
        if not self.settings.l1_decay:
            return self.settings.l1
        one_pass = math.ceil(task.size("forget") / task.batch_size)
        return self.settings.l1 * (1 - step // one_pass / math.ceil(task.steps / one_pass))


def _weighted_sum(parts: Sequence[list[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    first = torch._foreach_mul(parts[0], weights[0])
    return list(torch._foreach_add(list(first), parts[1], alpha=weights[1]))
