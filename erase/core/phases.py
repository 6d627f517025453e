"""The phases of a meta step: gradients of one loss at one set of parameter values.

A phase runs all micro-batches of a loss, accumulates in `p.grad`, and averages over processes. The
modes in `erase.core.meta` are sequences of phases with moves of the parameters in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from erase.core.params import restore, snapshot
from erase.core.second_order import fast_second_order
from erase.errors import InputError, RunError

Loss = Callable[[], Tensor]


class NonFiniteLossError(RunError):
    """A loss or its gradient became NaN or infinite; the parameters are as they were before."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Losses and gradient norms of one meta step, averaged over micro-batches and processes.

    Attributes:
        retain_loss: L_r at theta.
        forget_loss: L_f at theta' (at theta in mode `joint`).
        grad_norm: Euclidean norm of the gradient left in `p.grad`.
        retain_grad_norm: norm of grad L_r(theta); None if not measured (`joint` and `first-order`
            without `diagnose`).
        forget_grad_norm: norm of v; None in the same cases.
        cosine: of the two gradients, in ``[-1, 1]`` (figure 3A); 0 if one of them vanishes; None
            without `diagnose`.
        rho: alpha lambda |v| / |theta|, how far the correction reaches relative to the
            parameters; None where |v| is, in `joint`, or if all parameters are zero.
        curvature_error: relative difference between the corrections that two steps give; None
            unless asked for, in `hvp`.
        alpha: the inner step size; None in `joint`.
        curvature: v · H_r v; None unless asked for.
        curvature_size: |H_r v| / |v|; None where `curvature` is, or if v vanishes.
    """

    retain_loss: float
    forget_loss: float
    grad_norm: float
    retain_grad_norm: float | None = None
    forget_grad_norm: float | None = None
    cosine: float | None = None
    rho: float | None = None
    curvature_error: float | None = None
    alpha: float | None = None
    curvature: float | None = None
    curvature_size: float | None = None

    @property
    def damping_alpha(self) -> float | None:
        """The alpha at which (I - alpha H_r) v is shortest, v · H_r v / |H_r v|²; None if unknown.

        Negative where the retain loss curves downwards along v.
        """
        size = (self.curvature_size or 0.0) * (self.forget_grad_norm or 0.0)
        return None if self.curvature is None or size == 0 else self.curvature / size**2


class Step:
    """The inputs of one step, and its phases: all micro-batches of one loss at one theta."""

    def __init__(
        self,
        params: list[Tensor],
        retain: list[Loss],
        forget: list[Loss],
        reduce: Callable[[Tensor], Tensor] | None,
        alpha: float,
        weight: float,
        diagnose: bool,
    ) -> None:
        """Check the parameters and empty `p.grad`."""
        _check_params(params)
        self.params = params
        self.alpha = alpha
        self.weight = weight
        self.reach = alpha * weight
        self.diagnose = diagnose
        self._retain = retain
        self._forget = forget
        self._reduce = reduce
        self.pop_grads()

    def retain(self, scale: float = 1.0, *, sync: bool = True) -> float:
        """Add scale times the mean retain gradient to `p.grad`; return the mean loss.

        `p.grad` is the same on all processes before, so the mean over processes of "`p.grad` plus
        my share" is "`p.grad` plus the mean of the shares".
        """
        return self._phase("retain", self._retain, _scaled_backward(scale), sync)

    def forget(self, scale: float = 1.0) -> float:
        """The same for the forget loss."""
        return self._phase("forget", self._forget, _scaled_backward(scale))

    def gradient(self, name: str, losses: list[Loss], scale: float = 1.0) -> float:
        """The same for another loss; `name` stands in the message about one that is not finite."""
        return self._phase(name, losses, _scaled_backward(scale))

    def add_product(self, name: str, losses: list[Loss], v: list[Tensor], scale: float) -> None:
        """Add ``scale`` times H v to `p.grad`, H the Hessian of a loss here, by double backward."""

        def backward(loss: Tensor, share: float) -> None:
            grads = torch.autograd.grad(loss, self.params, create_graph=True, allow_unused=True)
            for p, h in zip(self.params, self._differentiate(grads, v), strict=True):
                if h is not None:
                    p.grad = h * (scale * share) if p.grad is None else p.grad + h * (scale * share)

        with fast_second_order():
            self._phase(name, losses, backward)

    def retain_with_product(self) -> tuple[float, Callable[[list[Tensor], float], None]]:
        """As `retain`, and a function that adds ``scale`` times H_r v to `p.grad` later.

        That function needs theta as it is now; in between, only `elsewhere` may change it. The
        graph of a single micro-batch is kept for it; several, whose graphs may not fit into
        memory together, are evaluated again.
        """
        if len(self._retain) > 1:
            return self.retain(), partial(self.add_product, "retain", self._retain)
        kept: list[Tensor | None] = []

        def backward(loss: Tensor, _share: float) -> None:
            kept[:] = torch.autograd.grad(loss, self.params, create_graph=True, allow_unused=True)
            for p, grad in zip(self.params, kept, strict=True):
                p.grad = None if grad is None else grad.detach().clone()

        with fast_second_order():
            value = self._phase("retain", self._retain, backward)

        def product(v: list[Tensor], scale: float) -> None:
            for p, h in zip(self.params, self._differentiate(kept, v), strict=True):
                if h is not None and p.grad is not None:
                    p.grad.add_(h, alpha=scale)
            kept.clear()
            self._sync()

        return value, product

    def _differentiate(
        self, grads: Sequence[Tensor | None], v: list[Tensor]
    ) -> Sequence[Tensor | None]:
        """The gradient of <grads, v>."""
        # A gradient that no longer depends on the parameters has no second derivative.
        pairs = [(g, d) for g, d in zip(grads, v, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return [None] * len(v)
        outputs, directions = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, self.params, directions, allow_unused=True)

    def _phase(
        self,
        name: str,
        losses: list[Loss],
        backward: Callable[[Tensor, float], None],
        sync: bool = True,
    ) -> float:
        values: list[Tensor] = []
        for loss_fn in losses:
            # Forward and backward in turn: one graph is alive at a time, none when theta moves.
            with torch.enable_grad():
                loss = loss_fn()
                _check_loss(name, loss)
                backward(loss, 1.0 / len(losses))
            values.append(loss.detach())
            del loss
        value = float(self._mean(torch.stack(values).mean()))
        # Checked after averaging, so that all processes stop together.
        if not math.isfinite(value):
            raise _non_finite(f"the {name} loss is {value}")
        for p in self.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if sync:
            self._sync()
        return value

    def _sync(self) -> None:
        """Average `p.grad` over processes."""
        for p in self.params:
            if self._reduce is not None and p.grad is not None:
                p.grad.copy_(self._mean(p.grad))

    def _mean(self, tensor: Tensor) -> Tensor:
        return tensor if self._reduce is None else self._reduce(tensor)

    def grads(self) -> list[Tensor]:
        """The tensors in `p.grad`, which stay there."""
        return [p.grad for p in self.params if p.grad is not None]

    def pop_grads(self) -> list[Tensor]:
        """Empty `p.grad` and return what was in it."""
        grads = self.grads()
        for p in self.params:
            p.grad = None
        return grads

    def set_grads(self, grads: list[Tensor]) -> None:
        """Make these tensors `p.grad`, without a copy."""
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad

    @contextmanager
    def moving(self) -> Iterator[list[Tensor]]:
        """Copy theta, and put it back at the end whatever happens."""
        theta = snapshot(self.params)
        try:
            yield theta
        finally:
            restore(self.params, theta)

    @contextmanager
    def elsewhere(self, direction: list[Tensor], length: float) -> Iterator[list[Tensor]]:
        """Inside, the live parameters are theta + length * direction; yields theta.

        The new values have memory of their own, and theta's stays as it is. So a graph that was
        made at theta is whole again afterwards, as it would not be after a move.
        """
        theta = [p.data for p in self.params]
        there = torch._foreach_add(theta, direction, alpha=length)
        try:
            for p, values in zip(self.params, there, strict=True):
                p.data = values
            yield theta
        finally:
            for p, values in zip(self.params, theta, strict=True):
                p.data = values

    @torch.no_grad()
    def move(self, theta: list[Tensor], direction: list[Tensor], length: float) -> None:
        """Set the live parameters to theta + length * direction."""
        restore(self.params, theta)
        torch._foreach_add_(self.params, direction, alpha=length)

    def measure(
        self,
        losses: tuple[float, float],
        gradients: tuple[list[Tensor], list[Tensor]],
        theta: list[Tensor] | None = None,
    ) -> Stats:
        """Gradient norms, the cosine (with `diagnose`) and rho (given theta)."""
        retain_norm = checked_norm("retain gradient", gradients[0])
        forget_norm = checked_norm("forget gradient", gradients[1])
        cosine = None
        if self.diagnose:
            product = retain_norm * forget_norm
            cosine = dot(*gradients) / product if product > 0 else 0.0
        size = 0.0 if theta is None else norm(theta)
        return Stats(
            retain_loss=losses[0],
            forget_loss=losses[1],
            grad_norm=0.0,
            retain_grad_norm=retain_norm,
            forget_grad_norm=forget_norm,
            cosine=None if cosine is None else min(1.0, max(-1.0, cosine)),
            rho=self.reach * forget_norm / size if size > 0 else None,
        )


def _scaled_backward(scale: float) -> Callable[[Tensor, float], None]:
    return lambda loss, share: (loss * (scale * share)).backward()


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all tensors taken as one vector, accumulated in float64."""
    # In float32, the norm of one long vector was off by 7e-4.
    norms = torch._foreach_norm(list(tensors), 2, torch.float64)
    return float(torch.linalg.vector_norm(torch.stack(list(norms))))


def dot(first: list[Tensor], second: list[Tensor]) -> float:
    """Inner product of two lists of tensors taken as vectors, accumulated in float64."""
    parts = [(a * b).sum(dtype=torch.float64) for a, b in zip(first, second, strict=True)]
    return float(torch.stack(parts).sum())


def checked_norm(name: str, gradients: list[Tensor]) -> float:
    """The norm of a gradient; NonFiniteLossError if it is NaN or infinite."""
    value = norm(gradients)
    if not math.isfinite(value):
        raise _non_finite(f"the {name} has norm {value}")
    return value


def _non_finite(problem: str) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{problem}; the parameters are unchanged.",
        "Lower the learning rate or alpha, or check the data for broken samples.",
    )


def closures(name: str, loss: Loss | Sequence[Loss]) -> list[Loss]:
    """The micro-batches of a loss, one closure or several, as a list; InputError if empty."""
    losses = [loss] if callable(loss) else list(loss)
    if not losses:
        raise InputError(f"{name} has no micro-batch", "Give at least one closure.")
    return losses


def _check_loss(name: str, loss: Tensor) -> None:
    if loss.ndim != 0:
        raise InputError(
            f"the {name} loss has shape {tuple(loss.shape)}, not that of one number",
            "Average it over the samples in the closure.",
        )
    if not loss.requires_grad:
        raise InputError(
            f"the {name} loss has no gradient",
            "Compute it from parameters that require one, outside torch.no_grad().",
        )


def _check_params(params: list[Tensor]) -> None:
    if not params:
        raise InputError("there are no parameters to train", "Select at least one.")
    if len({id(p) for p in params}) < len(params):
        raise InputError("a parameter is listed twice", "List each parameter once.")
    for p in params:
        if p.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a trained parameter is {p.dtype}, in which small steps are lost",
                "Keep trained parameters in float32 and use autocast for lower precision.",
            )
        if not (p.requires_grad and p.is_leaf):
            raise InputError(
                "a trained parameter does not require a gradient, or is not a leaf",
                "Choose parameters with erase.core.params.select_parameters.",
            )
