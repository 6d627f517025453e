"""IU: influence unlearning, one Newton-like step with WoodFisher (Izzo et al., 2021)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.objectives import cross_entropy
from erase.tasks.method import ClosedForm, gradient_of
from erase.tasks.protocol import Batch, ClassifierTask, Subset

RECIPES: dict[str, Recipe] = {
    "cifar10": published("SHs paper, CIFAR-10", alpha=10.0),
    "cifar100": published("SHs paper, CIFAR-100, 10%", alpha=20.0),
    "cifar100:50": published("SHs paper, CIFAR-100, 50%", alpha=2.0),
    "celeba": published("SHs paper, CelebA-HQ", alpha=5.0),
    "digits": ours("CIFAR-10's", alpha=10.0),
}
SEARCH: dict[str, tuple[float, float]] = {"alpha": (0.1, 300.0)}
SOLVERS = ("source", "exact")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of IU."""

    alpha: float = option(10.0, "Length α of the step (≥ 0).", least=0)
    samples: int = option(
        1000,
        "Single retain samples N behind the Fisher matrix. The source counts N and goes on for two"
        " more.",
        least=1,
    )
    solver: str = option(
        "source",
        "source: the public code's recursion, which takes every sample's gradient to be"
        " parallel to the first; exact: the true inverse, with memory for N gradients.",
        SOLVERS,
    )


class Method(ClosedForm):
    """θ + α (I + Σ g gᵀ / N)⁻¹ v with v the difference of the mean gradients that D_f makes."""

    families: ClassVar = frozenset({"classifier"})

    def prepare(self, task: ClassifierTask) -> None:
        """The whole method: all gradients in evaluation mode, then one step."""
        with task.evaluating():
            forget, retain = _gradient_sum(task, "forget"), _gradient_sum(task, "retain")
            n_forget, n_retain = task.size("forget"), task.size("retain")
            total = n_forget + n_retain
            # Removing D_f changes the mean gradient over all data by -v.
            v = forget / total - n_forget / (total * n_retain) * retain
            count = self.settings.samples
            drawn = count if self.settings.solver == "exact" else count + 2
            batch = task.draw("retain", drawn, "woodfisher")
            gradients = (
                _flat(task, Batch(image[None], label[None]))
                for image, label in zip(batch.images, batch.labels, strict=True)
            )
            if self.settings.solver == "exact":
                direction = woodbury(v, torch.stack(list(gradients)))
            else:
                direction = source_recursion(v, gradients, count)
        parameters = list(task.parameters.values())
        moves = direction.split([p.numel() for p in parameters])
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p.add_(move.view_as(p), alpha=self.settings.alpha)


def source_recursion(v: Tensor, gradients: Any, count: int) -> Tensor:
    """The public code's WoodFisher: k ← k − (k·g)/(N+o·g) o, o ← o − (o·g)/(N+o·g) o.

    `o` starts as the first gradient, which changes nothing else, and is only ever rescaled. So the
    result is near the inverse Fisher product where all gradients are parallel, and a
    projection-like correction along the first gradient elsewhere.

    Args:
        v: right-hand side ``[P]``.
        gradients: iterable of vectors ``[P]``.
        count: N, whatever the number of vectors.
    """
    k = v.clone()
    o: Tensor | None = None
    for g in gradients:
        if o is None:
            o = g.clone()
            continue
        overlap = torch.dot(o, g)
        k -= torch.dot(k, g) / (count + overlap) * o
        o -= overlap / (count + overlap) * o
    return k


def woodbury(v: Tensor, gradients: Tensor) -> Tensor:
    """(I + GᵀG/N)⁻¹ v for gradients G ``[N, P]``, by the Woodbury identity."""
    count = len(gradients)
    small = gradients.double() @ gradients.double().T
    small.diagonal().add_(count)
    weights = torch.linalg.solve(small, gradients.double() @ v.double())
    correction: Tensor = gradients.T @ weights.to(v.dtype)
    return v - correction


def _gradient_sum(task: ClassifierTask, subset: Subset) -> Tensor:
    parts = [_flat(task, batch) for batch in task.ordered(subset)]
    return torch.stack(parts).sum(0)


def _flat(task: ClassifierTask, batch: Batch) -> Tensor:
    gradients, _, _ = gradient_of(
        task, lambda: cross_entropy(task.logits(batch.images), batch.labels).sum()
    )
    return torch.cat([gradient.flatten() for gradient in gradients])
