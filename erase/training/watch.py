"""Watch one weight's gradients without changes to the code that computes them."""

from __future__ import annotations

import torch
from torch import Tensor


class GradientWatch:
    """Cosine of the first two gradients that reach a weight in a step (figure 3A).

    LUR and LUR-b take the retain gradient first and the forget gradient second, each by its own
    backward pass; later gradients (LUR's double backward) are ignored. Methods that compute their
    gradients in another way give no cosine.

    Args:
        weight: a leaf tensor, e.g. the weight of the penultimate layer.
    """

    def __init__(self, weight: Tensor) -> None:
        self._gradients: list[Tensor] = []
        self._handle = weight.register_hook(self._record)

    def _record(self, gradient: Tensor) -> None:
        if len(self._gradients) < 2:
            self._gradients.append(gradient.detach().clone())

    def start(self) -> None:
        """Begin a new step: discard the recorded gradients."""
        self._gradients.clear()

    def cosine(self) -> float | None:
        """Cosine in ``[-1, 1]`` of the two gradients; None without two nonzero gradients."""
        if len(self._gradients) < 2:
            return None
        first, second = (gradient.flatten().double() for gradient in self._gradients)
        size = first.norm() * second.norm()
        return float(torch.dot(first, second) / size) if size > 0 else None

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()
        self._gradients.clear()
