"""SalUn: random labels, but only salient weights move (Fan et al., ICLR 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy, negative_cross_entropy, noise_mse
from erase.core.params import as_list
from erase.core.rng import generator
from erase.core.trim import Mask, top_share
from erase.tasks.denoising import summed_gradient, two_gradients, weighted
from erase.tasks.method import BaseMethod, Split, TwoLossMethod, gradient_of, put_gradients
from erase.tasks.protocol import Batch, ClassifierTask, Denoiser, Noised, Reduce

DEFAULTS: dict[str, dict[str, Any]] = {
    # SalUn's own repository: 0.013 and a mask of 0.5; at 50%, SHs' 5e-2 and 0.2, 1e-2 and 0.5.
    "cifar10": {"epochs": 10, "learning_rate": 0.013, "mask": 0.5},
    "cifar10:50": {"epochs": 10, "learning_rate": 0.05, "mask": 0.2},
    "cifar100": {"epochs": 10, "learning_rate": 0.013, "mask": 0.5},
    "cifar100:50": {"epochs": 10, "learning_rate": 0.01, "mask": 0.5},
    "celeba": {"epochs": 5, "learning_rate": 3e-3, "mask": 0.5},
    "digits": {"epochs": 5, "learning_rate": 0.013, "mask": 0.5},
}
SEARCH: dict[str, tuple[float, float]] = {"mask": (0.1, 1.0)}
DENOISER: dict[str, dict[str, Any]] = {
    # The source's for nudity: one epoch of 800 images in batches of 8, mask with guidance 7.5.
    "large": {
        "learning_rate": 1e-5,
        "max_train_steps": 100,
        "train_batch_size": 8,
        "retain_weight": 0.1,
        "mask_guidance": 7.5,
    },
    # α 1e-3 with the retain term summed over the 3 × 32 × 32 values of an image: 3.07 as a mean.
    "class-conditional": {
        "learning_rate": 1e-4,
        "max_train_steps": 1000,
        "train_batch_size": 128,
        "retain_weight": 3.072,
    },
    # Of three tried on mini-sd's digit nine: benchmarks/diffusion_tuning.py.
    "small": {"retain_weight": 1.0},
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SalUn."""

    mask: float = option(0.5, "Share of the weights that move (0 to 1).", above=0, most=1)


class Method(TwoLossMethod):
    """CE of D_f with labels other than its own, and of D_r with the true ones, under a mask.

    The two sets are mixed in one batch in the proportion of their sizes, and an epoch goes over
    both, as in the source's concatenated loader; the loss is the mean over the whole batch.
    """

    families: ClassVar = frozenset({"classifier"})
    epoch_over: ClassVar = "all"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mask: Mask | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """The mask: top share of the absolute summed gradient of −CE(D_f), evaluation mode."""
        parameters = list(task.parameters.values())
        total = [torch.zeros_like(p) for p in parameters]
        with task.evaluating():
            for batch in task.ordered("forget"):
                gradients, _, _ = gradient_of(task, lambda b=batch: _ascent(task, b))  # type: ignore[misc]
                torch._foreach_add_(total, gradients)
        self._mask = Mask(parameters, top_share([t.abs() for t in total], self.settings.mask))

    def split(self, task: ClassifierTask, step: int) -> Split:
        """The masked gradients of the two parts of the mixed batch, by one forward pass."""
        assert self._mask is not None
        n_forget, n_retain = task.size("forget"), task.size("retain")
        share = round(task.batch_size * n_forget / (n_forget + n_retain))
        n = min(max(1, share), task.batch_size - 1)
        forget = task.batch("forget", step, n)
        retain = task.batch("retain", step, task.batch_size - n)
        images = torch.cat([forget.images, retain.images])
        labels = torch.cat([random_labels(task, forget.labels, step), retain.labels])

        def part(rows: slice) -> Tensor:
            return cross_entropy(task.logits(images), labels)[rows].sum() / len(labels)

        # Both passes see the whole batch, for its statistics; the first one moves the running ones.
        losses = [
            task.fixed(lambda: part(slice(n, None)), "mixed", step),
            task.fixed(lambda: part(slice(n)), "mixed", step, moves_buffers=False),
        ]
        (g_retain, l_retain, r_norm), (g_forget, l_forget, f_norm) = (
            gradient_of(task, loss) for loss in losses
        )
        stats = Stats(l_retain, l_forget, 0.0, r_norm, f_norm)
        return Split(self._mask.gradients(g_retain), self._mask.gradients(g_forget), stats)

    def after_step(self, task: ClassifierTask) -> None:  # noqa: ARG002
        """Put the frozen weights back: weight decay and momentum would move them."""
        assert self._mask is not None
        self._mask.put_back()


def random_labels(task: ClassifierTask, labels: Tensor, step: int) -> Tensor:
    """Labels drawn evenly from the K − 1 classes that are not the true one, ``[B]``."""
    source = generator(task.seed, step, "random labels")
    shift = torch.randint(1, task.classes, labels.shape, generator=source)
    return (labels + shift.to(labels.device)) % task.classes


def _ascent(task: ClassifierTask, batch: Batch) -> Tensor:
    return negative_cross_entropy(task.logits(batch.images), batch.labels).sum()


@dataclass(frozen=True)
class DenoiserSettings(Settings):
    """Hyper-parameters of SalUn on denoisers."""

    retain_weight: float = option(0.1, "Weight α of the retain loss (≥ 0).", least=0)
    mask_guidance: float = option(
        1.0, "Guidance of the prediction behind the mask; 1: none (source: 7.5)."
    )


class DenoiserMethod(BaseMethod):
    """MSE(ε_θ(x_t|c), sg ε_θ(x_t|c')) + α L_r under a mask.

    The mask marks the top share of the absolute summed gradient of −MSE(ε, ε_θ(x_t|c)) over D_f.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: DenoiserSettings) -> None:
        self.settings = settings
        self._mask: Mask | None = None

    def prepare(self, task: Denoiser) -> None:
        """The mask, from every forget image once."""
        total = summed_gradient(
            task, "forget", "mask", lambda b: -noise_mse(self._guided(task, b), task.target(b))
        )
        share = self.settings.mask
        self._mask = Mask(as_list(task.parameters), top_share([t.abs() for t in total], share))

    def _guided(self, task: Denoiser, batch: Noised) -> Tensor:
        prediction = task.predict(batch)
        scale = self.settings.mask_guidance
        if scale == 1:
            return prediction
        empty = task.predict(batch, torch.full_like(batch.condition, task.empty))
        guided: Tensor = empty + scale * (prediction - empty)
        return guided

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The masked gradient, in `.grad`."""
        assert self._mask is not None
        losses = task.losses(step)
        retain, forget, stats = two_gradients(task, losses.retain, losses.forget, reduce)
        total = weighted(forget, retain, self.settings.retain_weight)
        put_gradients(task, self._mask.gradients(total))
        return stats

    def after_step(self, task: Denoiser) -> None:  # noqa: ARG002
        """Put the frozen weights back: weight decay and Adam's momentum would move them."""
        assert self._mask is not None
        self._mask.put_back()
