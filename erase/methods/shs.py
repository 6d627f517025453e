"""SHs: Scissorhands, trim what the forget set uses, then repair (Wu & Harandi, ECCV 2024)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import lsq_linear
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy, negative_cross_entropy
from erase.core.rng import generator
from erase.core.trim import layers_matching, trim
from erase.errors import InputError
from erase.tasks.denoising import absolute_gradient, two_gradients, weighted
from erase.tasks.method import (
    BaseMethod,
    Split,
    TwoLossMethod,
    gradient_of,
    put_gradients,
    trim_for,
)
from erase.tasks.protocol import Batch, ClassifierTask, Denoiser, Reduce

SD_LAYERS = r"up_blocks\.[12]\.attentions\.1\..*attn1"
"""`output_blocks.4` and `output_blocks.7` in CompVis' names."""
RECIPES: dict[str, Recipe] = {
    "cifar10": published(
        "SHs: Classification/sh/main_0.1_cifar10.sh and unlearn/SHs/SHs_0.1_cifar10.py",
        epochs=10,
        learning_rate=5e-3,
        sparsity=0.97,
        forget_weight=0.05,
    ),
    "cifar10:50": published(
        "SHs: Classification/sh/main_0.5_cifar10.sh and unlearn/SHs/SHs_0.5_cifar10.py",
        epochs=10,
        learning_rate=1e-3,
        sparsity=0.97,
        forget_weight=0.01,
        project_every=10,
    ),
    "cifar100": published(
        "SHs paper, CIFAR-100, 10%",
        epochs=10,
        learning_rate=5e-3,
        sparsity=0.99,
        forget_weight=1.0,
        layers="layer4|fc",
    ),
    "cifar100:50": published(
        "SHs paper, CIFAR-100, 50%",
        epochs=10,
        learning_rate=1e-3,
        sparsity=0.9,
        forget_weight=0.01,
        layers="layer4|fc",
        project_every=10,
    ),
    "celeba": published(
        "SHs paper, CelebA-HQ; unlearn/SHs/SHs_0.1_celebahq.py",
        epochs=5,
        learning_rate=2e-4,
        sparsity=0.995,
        forget_weight=0.3,
        layers="layer4|fc",
        project_every=10,
    ),
    "digits": ours(
        "CIFAR-10's, shorter", epochs=5, learning_rate=5e-3, sparsity=0.97, forget_weight=0.05
    ),
    "nudity": published(
        "SHs: SD/train_shs.sh and shs_nsfw.py",
        learning_rate=1e-5,
        epochs=5,
        train_batch_size=16,
        sparsity=0.995,
        layers=SD_LAYERS,
    ),
    "class": published(
        "SHs: SD/train_shs.sh and shs_cls.py",
        learning_rate=2e-5,
        epochs=3,
        train_batch_size=8,
        sparsity=0.999,
        forget="ascent",
        layers=SD_LAYERS,
    ),
    "style": ours(
        "SHs' for nudity",
        learning_rate=1e-5,
        epochs=5,
        train_batch_size=16,
        sparsity=0.995,
        layers=SD_LAYERS,
    ),
    "class-conditional": ours(
        "SHs' loss for classes, SalUn's schedule",
        **SALUN_DDPM,
        forget="ascent",
        layers="attentions",
    ),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        forget_weight=0.5,
        sparsity=0.999,
    ),
}
SEARCH: dict[str, tuple[float, float]] = {
    "sparsity": (0.8, 0.999),
    "forget_weight": (1e-2, 1.0),
}
FORGET_LOSSES = ("mismatch", "ascent")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of Scissorhands."""

    sparsity: float = option(
        0.97, "Share s of the network's weights that are not salient.", least=0, most=1
    )
    forget_weight: float = option(0.05, "Weight λ of the forget loss.", least=0)
    layers: str = option(
        "layer3|layer4|fc",
        "Regular expression for the names of the layers that are trimmed and projected.",
    )
    trim_batches: int = option(1, "Forget batches behind the saliency.", least=1)
    memory_batches: int = option(1, "Forget batches behind the projection.", least=1)
    margin: float = option(0.5, "Least dual variable of the projection (≥ 0).", least=0)
    project_every: int = option(
        1,
        "Project every n-th joint step of an epoch (the source at 50% and on faces: 10).",
        least=1,
    )


class Method(TwoLossMethod):
    """L_r − λ CE(D_f) after trimming; the gradient is projected if it opposes the memory's.

    An epoch goes over D_r. Its first steps, as many as D_f has batches, are joint; the others are
    of L_r alone. The memory are gradients of −CE on forget batches, of the model as it is at the
    start of the epoch, in evaluation mode.
    """

    families: ClassVar = frozenset({"classifier"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._memory: Tensor | None = None

    def prepare(self, task: ClassifierTask) -> None:
        """Trim by the saliency of forget batches."""
        trim_for(task, self.settings.sparsity, self.settings.layers, self.settings.trim_batches)

    def split(self, task: ClassifierTask, step: int) -> Split:
        """∇L_r, and −λ∇CE(D_f) with the projection's correction; None in a step without D_f."""
        epoch, place = divmod(step, self.steps_per_epoch(task))
        if place == 0:
            self._memory = self._remember(task, epoch)
        retain = task.batch("retain", step)
        retain_loss = task.fixed(
            lambda: cross_entropy(task.logits(retain.images), retain.labels).mean(), "retain", step
        )
        g_retain, l_retain, r_norm = gradient_of(task, retain_loss)
        passes = math.ceil(task.size("forget") / task.batch_size)
        if place >= passes:
            return Split(g_retain, None, Stats(l_retain, math.nan, 0.0, r_norm))
        number = epoch * passes + place
        forget = task.batch("forget", number)
        forget_loss = task.fixed(
            lambda: _ascent(task, forget), "forget", number, moves_buffers=False
        )
        g_forget, l_forget, f_norm = gradient_of(task, forget_loss)
        weighted = list(torch._foreach_mul(g_forget, self.settings.forget_weight))
        stats = Stats(l_retain, l_forget, 0.0, r_norm, f_norm)
        if (place + 1) % self.settings.project_every:
            return Split(g_retain, weighted, stats)
        total = torch._foreach_add(g_retain, weighted)
        projected = self._projected(task, list(total))
        return Split(g_retain, list(torch._foreach_sub(projected, g_retain)), stats)

    def _chosen(self, task: ClassifierTask) -> list[bool]:
        """For each parameter, whether it is projected."""
        expression = re.compile(self.settings.layers)
        return [expression.search(name) is not None for name in task.parameters]

    def _remember(self, task: ClassifierTask, epoch: int) -> Tensor:
        """The memory, ``[M, P]``."""
        rows, chosen = [], self._chosen(task)
        with task.evaluating():
            for number in range(self.settings.memory_batches):
                batch = task.batch("forget", epoch * self.settings.memory_batches + number)
                gradients, _, _ = gradient_of(task, lambda b=batch: _ascent(task, b))  # type: ignore[misc]
                parts = [g.flatten() for g, use in zip(gradients, chosen, strict=True) if use]
                rows.append(torch.cat(parts))
        return torch.stack(rows)

    def _projected(self, task: ClassifierTask, gradients: list[Tensor]) -> list[Tensor]:
        assert self._memory is not None
        chosen = self._chosen(task)
        places = [number for number, use in enumerate(chosen) if use]
        flat = torch.cat([gradients[number].flatten() for number in places])
        found = project(flat, self._memory, self.settings.margin)
        sizes = [gradients[number].numel() for number in places]
        for number, part in zip(places, found.split(sizes), strict=True):
            gradients[number] = part.view_as(gradients[number])
        return gradients

    def state(self) -> dict[str, Tensor]:
        """The memory of the epoch."""
        return {} if self._memory is None else {"memory": self._memory}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the memory of the epoch."""
        self._memory = state.get("memory")

    def finish(self, task: ClassifierTask) -> None:  # noqa: ARG002
        """Free the memory."""
        self._memory = None


def project(gradient: Tensor, memory: Tensor, margin: float, eps: float = 1e-3) -> Tensor:
    """The gradient g with a combination of the memory's added, if it opposes any row of it.

    g + Mᵀv with the v ≥ margin that minimises ½ vᵀ(MMᵀ + εI)v + (Mg)ᵀv: the dual of gradient
    episodic memory (Lopez-Paz & Ranzato 2017), as in the source.

    Args:
        gradient: g, ``[P]``.
        memory: M, ``[M, P]``.
        margin: least value of v.
        eps: ε, on the diagonal.
    """
    overlaps = memory.double() @ gradient.double()
    if bool((overlaps >= 0).all()):
        return gradient
    products = memory.double() @ memory.double().T
    products.diagonal().add_(eps)
    # ½ vᵀAv + bᵀv = ½ ‖Lᵀv + L⁻¹b‖² + a constant, with A = LLᵀ.
    root = torch.linalg.cholesky(products)
    goal = -torch.linalg.solve_triangular(root, overlaps[:, None], upper=False)[:, 0]
    found = lsq_linear(root.T.cpu().numpy(), goal.cpu().numpy(), bounds=(margin, math.inf))
    dual = torch.from_numpy(found.x).to(memory)
    moved: Tensor = gradient + dual @ memory
    return moved


def _ascent(task: ClassifierTask, batch: Batch) -> Tensor:
    return negative_cross_entropy(task.logits(batch.images), batch.labels).mean()


@dataclass(frozen=True)
class DenoiserSettings(Config):
    """Hyper-parameters of Scissorhands on denoisers."""

    sparsity: float = option(
        0.995, "Share s of the network's weights that are not salient.", least=0, most=1
    )
    forget_weight: float = option(0.1, "Weight λ of the forget loss (≥ 0).", least=0)
    layers: str = option(
        "attn1",
        "Regular expression for the names of the trimmed layers; on Stable Diffusion those of the"
        " public code, self-attention in the second attention block of two levels.",
    )
    trim_batches: int = option(10, "Forget batches behind the saliency.", least=1)
    forget: str = option(
        "mismatch",
        "L_f: mismatch, to what is shown under the anchor (the source on nudity); or"
        " ascent, minus the denoising loss on D_f (the source on classes).",
        FORGET_LOSSES,
    )


class DenoiserMethod(BaseMethod):
    """Trim by |g · w| of forget batches, then L_r + λ L_f."""

    families: ClassVar = DENOISERS

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Refuse a pattern that matches no layer."""
        layers_matching(model, self.settings.layers)

    def prepare(self, task: Denoiser) -> None:
        """Trim by the saliency of batches of forget images."""
        gradients = absolute_gradient(
            task, "forget", "trim", task.denoising, self.settings.trim_batches
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
            slope=0.0,
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
