"""SHs: Scissorhands, trim what the forget set uses, then repair (Wu & Harandi, ECCV 2024)."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy, negative_cross_entropy
from erase.core.rng import generator
from erase.core.trim import layers_matching, trim
from erase.errors import InputError
from erase.tasks.denoising import summed_gradient, two_gradients, weighted
from erase.tasks.method import (
    BaseMethod,
    Split,
    TwoLossMethod,
    gradient_of,
    put_gradients,
    trim_for,
)
from erase.tasks.protocol import Batch, ClassifierTask, Denoiser, Reduce

DEFAULTS: dict[str, dict[str, Any]] = {
    # The SHs paper's learning rate / sparsity / λ.
    "cifar10": {"epochs": 10, "learning_rate": 5e-3, "sparsity": 0.97, "forget_weight": 0.05},
    "cifar10:50": {"epochs": 10, "learning_rate": 1e-3, "sparsity": 0.97, "forget_weight": 0.01},
    "cifar100": {
        "epochs": 10,
        "learning_rate": 5e-3,
        "sparsity": 0.99,
        "forget_weight": 1.0,
        "layers": "layer4|fc",
    },
    "cifar100:50": {
        "epochs": 10,
        "learning_rate": 1e-3,
        "sparsity": 0.9,
        "forget_weight": 0.01,
        "layers": "layer4|fc",
    },
    "celeba": {
        "epochs": 5,
        "learning_rate": 2e-4,
        "sparsity": 0.995,
        "forget_weight": 0.3,
        "layers": "layer4|fc",
    },
    "digits": {"epochs": 5, "learning_rate": 5e-3, "sparsity": 0.97, "forget_weight": 0.05},
}
SEARCH: dict[str, tuple[float, float]] = {
    "sparsity": (0.8, 0.999),
    "forget_weight": (1e-2, 1.0),
}
DENOISER: dict[str, dict[str, Any]] = {
    # The source's for nudity: 3 epochs of 800 images in batches of 8.
    "large": {"learning_rate": 1e-5, "max_train_steps": 300, "train_batch_size": 8},
    "class-conditional": {"forget": "ascent", "layers": "attentions"},
    # Of three tried on mini-sd's digit nine: benchmarks/diffusion_tuning.py.
    "small": {"forget_weight": 0.5, "sparsity": 0.999},
}
FORGET_LOSSES = ("mismatch", "ascent")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of Scissorhands."""

    sparsity: float = option(
        0.97, "Share s of the chosen layers' weights that are kept.", least=0, most=1
    )
    forget_weight: float = option(0.05, "Weight λ of the forget loss.", least=0)
    layers: str = option(
        "layer3|layer4|fc", "Regular expression for the names of the trimmed layers."
    )


class Method(TwoLossMethod):
    """L_r − λ CE(D_f) after trimming; the gradient is projected if it opposes the proxy's."""

    families: ClassVar = frozenset({"classifier"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._proxy: Module | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """Keep the original as the proxy, then trim by the saliency of one forget batch."""
        self._proxy = deepcopy(task.model).eval()
        trim_for(task, self.settings.sparsity, self.settings.layers)

    def split(self, task: ClassifierTask, step: int) -> Split:
        """∇L_r, and −λ∇CE(D_f) with the projection's correction."""
        retain, forget = task.batch("retain", step), task.batch("forget", step)
        retain_loss = task.fixed(
            lambda: cross_entropy(task.logits(retain.images), retain.labels).mean(), "retain", step
        )
        forget_loss = task.fixed(
            lambda: _ascent(task, forget, None), "forget", step, moves_buffers=False
        )
        g_retain, l_retain, r_norm = gradient_of(task, retain_loss)
        g_forget, l_forget, f_norm = gradient_of(task, forget_loss)
        assert self._proxy is not None
        proxy_gradient = list(
            torch.autograd.grad(_ascent(task, forget, self._proxy), list(self._proxy.parameters()))
        )
        g = torch._foreach_add(g_retain, g_forget, alpha=self.settings.forget_weight)
        projected = project(list(g), proxy_gradient)
        return Split(
            g_retain,
            list(torch._foreach_sub(projected, g_retain)),
            Stats(l_retain, l_forget, 0.0, r_norm, f_norm),
        )

    def finish(self, task: ClassifierTask) -> None:  # noqa: ARG002
        """Free the proxy."""
        self._proxy = None


def project(gradient: list[Tensor], direction: list[Tensor]) -> list[Tensor]:
    """The z nearest to the gradient with z · direction ≥ 0: a quadratic program of one constraint.

    The solution is the gradient itself if it meets the constraint, else the gradient without its
    component along `direction`.
    """
    dot = sum(
        float((g.double() * d.double()).sum()) for g, d in zip(gradient, direction, strict=True)
    )
    if dot >= 0:
        return gradient
    size = sum(float(d.double().square().sum()) for d in direction)
    return list(torch._foreach_sub(gradient, direction, alpha=dot / size))


def _ascent(task: ClassifierTask, batch: Batch, model: Module | None) -> Tensor:
    return negative_cross_entropy(task.logits(batch.images, model), batch.labels).mean()


@dataclass(frozen=True)
class DenoiserSettings(Config):
    """Hyper-parameters of Scissorhands on denoisers."""

    sparsity: float = option(
        0.995, "Share s of the chosen layers' weights that are kept.", least=0, most=1
    )
    forget_weight: float = option(0.1, "Weight λ of the forget loss (≥ 0).", least=0)
    layers: str = option("attn", "Regular expression for the names of the trimmed layers.")
    forget: str = option(
        "mismatch",
        "L_f: mismatch, to what is shown under the anchor (the source on nudity); or"
        " ascent, minus the denoising loss on D_f (the source on classes).",
        FORGET_LOSSES,
    )


class DenoiserMethod(BaseMethod):
    """Trim by |g · w| of one forget batch, then L_r + λ L_f."""

    families: ClassVar = DENOISERS

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Refuse a pattern that matches no layer."""
        layers_matching(model, self.settings.layers)

    def prepare(self, task: Denoiser) -> None:
        """Trim by the saliency of one batch of forget images."""
        gradients = summed_gradient(
            task, "forget", "trim", lambda batch: -task.denoising(batch), count=task.batch_size
        )
        by_name = dict(zip(task.parameters, gradients, strict=True))
        for name, layer in layers_matching(task.model, self.settings.layers).items():
            for part, _ in layer.named_parameters(recurse=False):
                if f"{name}.{part}" not in by_name:
                    raise InputError(
                        f"SHs would trim {name}, which is not trained.",
                        "Use --trainable full, or other --set layers=REGEX.",
                    )
        trim(
            task.model,
            by_name,
            layers=self.settings.layers,
            sparsity=self.settings.sparsity,
            generator=generator(task.seed, "trim"),
        )

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of L_r + λ L_f, in `.grad`."""
        ascent = self.settings.forget == "ascent"
        retain, forget, stats = two_gradients(
            task,
            task.mean_losses("retain", step, task.denoising),
            task.mean_losses(
                "forget", step, (lambda b: -task.denoising(b)) if ascent else task.mismatch
            ),
            reduce,
        )
        put_gradients(task, weighted(retain, forget, self.settings.forget_weight))
        return stats
