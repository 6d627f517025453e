"""Watching one weight's gradients without touching the code that computes them."""

from __future__ import annotations

import torch
from torch import Tensor


class GradientWatch:
    """Cosine of the first two gradients that reach a weight in a step (figure 3A).

    LUR and LUR-b take the retain gradient first and the forget gradient second, each by its own
    backward pass; what comes after (LUR's double backward) is not looked at. Methods that go about
    it otherwise leave no cosine.

    Args:
        weight: a leaf tensor, e.g. the weight of the penultimate layer.
    """

    def __init__(self, weight: Tensor) -> None:
        self._seen: list[Tensor] = []
        self._handle = weight.register_hook(self._look)

    def _look(self, gradient: Tensor) -> None:
        if len(self._seen) < 2:
            self._seen.append(gradient.detach().clone())

    def start(self) -> None:
        """Forget what was seen: a new step begins."""
        self._seen.clear()

    def cosine(self) -> float | None:
        """Cosine in ``[-1, 1]`` of the two gradients; None unless two were seen, not zero."""
        if len(self._seen) < 2:
            return None
        first, second = (gradient.flatten().double() for gradient in self._seen)
        size = first.norm() * second.norm()
        return float(torch.dot(first, second) / size) if size > 0 else None

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()
        self._seen.clear()
