"""The meta step whose look-ahead is an attacker's fine-tuning, for any model, over its closures.

An attacker who has some images of what was forgotten fine-tunes on them: K steps
theta_k+1 = theta_k - beta grad L_q(theta_k) on the relearning loss L_q, from theta_0 = theta. The
guard minimises

    L_r(theta) + lambda L_f(theta_K)

over theta, so that the concept is still forgotten where the attacker arrives. That may be joined
with LUR's own look-ahead: then theta_0 = theta - alpha grad L_r(theta). With v_K = grad L_f at
theta_K and H_q, H_r the Hessians on the SAME batches, noise, timesteps and dropout masks, the chain
rule goes back through the attacker's steps,

    v_k = (I - beta H_q(theta_k)) v_k+1,    g = grad L_r(theta) + lambda (I - alpha H_r(theta)) v_0.

Each product is one difference of gradients in the mode `hvp` (`erase.core.meta` says how its step
is chosen), so a guard of one step takes one gradient more than LUR, and every further step takes
two. Meta-unlearning (Gao et al., ICCV 2025, arXiv 2410.12777) and ResAlign (Li et al., NeurIPS
2025, arXiv 2507.16302) look ahead in the same way, with other losses and other hypergradients.

An attacker of many steps (`erase.core.attacker`) goes on from one step to the next: his way so far
is a constant displacement of theta_0, and only the K steps that he takes now are differentiated
through. Those that Adam makes are not: they count as constant (first order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from erase.core.attacker import Attacker
from erase.core.meta import Loss, Stats, check_options, difference
from erase.core.params import as_list, restore, snapshot
from erase.core.phases import Step, checked_norm, closures, norm
from erase.errors import InputError

GuardMode = Literal["hvp", "exact", "first-order"]


@dataclass(frozen=True)
class _Move:
    """One inner step that is differentiated through: its loss and length, start and gradient."""

    name: str
    losses: list[Loss]
    length: float
    start: list[Tensor]
    gradient: list[Tensor]


def guarded_gradient(
    params: Iterable[Tensor] | Mapping[str, Tensor],
    retain_loss: Loss | Sequence[Loss],
    forget_loss: Loss | Sequence[Loss],
    relearn_losses: Sequence[Loss | Sequence[Loss]],
    *,
    beta: float,
    alpha: float = 0.0,
    forget_weight: float = 1.0,
    mode: GuardMode = "hvp",
    reduce: Callable[[Tensor], Tensor] | None = None,
    attacker: Attacker | None = None,
    precision: Literal["bf16"] | None = None,
) -> Stats:
    """Leave the gradient of ``L_r(theta) + lambda L_f(theta_K)`` in `p.grad`.

    Whatever was in `p.grad` is overwritten; the parameters end bit for bit as they began, also
    when a closure raises (`p.grad` is None then). Memory: two copies of the parameters for each
    inner step, two more, and an attacker's own three.

    Args:
        params: float32 or float64 leaf tensors to train; see `erase.core.meta.meta_gradient`, also
            for the closures.
        retain_loss: L_r, a closure or micro-batches.
        forget_loss: L_f, likewise.
        relearn_losses: L_q of each of the attacker's K steps, likewise; may be empty.
        beta: step size of the attacker, at least 0.
        alpha: step size of the retain look-ahead before them, at least 0.
        forget_weight: lambda, at least 0.
        mode: `hvp`, by differences of gradients: 2 + 2 K evaluations, one more where alpha > 0.
            `exact`, by double backward. `first-order` leaves the Hessians out: 2 + K evaluations.
        reduce: averages a tensor over processes; applied after each phase.
        attacker: one who goes on from his displacement, which moves by the K steps; without
            him, each call has an attacker who begins at theta.
        precision: "bf16" if the closures run under bfloat16 autocast: differences are central.

    Returns:
        Losses, gradient norms and the cosine of grad L_r(theta) and grad L_f(theta_K).

    Raises:
        InputError: parameters, closures or numbers that cannot be used.
        NonFiniteLossError: a loss or gradient is NaN or infinite.
    """
    check_options(mode, precision, alpha=alpha, beta=beta, forget_weight=forget_weight)
    if mode not in get_args(GuardMode):
        raise InputError(f"a guard has no mode {mode!r}", "Use hvp, exact or first-order.")
    retain = closures("retain_loss", retain_loss)
    step = Step(
        as_list(params),
        retain,
        closures("forget_loss", forget_loss),
        reduce,
        alpha,
        forget_weight,
        diagnose=True,
    )
    attacks = [closures("relearn_losses", losses) for losses in relearn_losses]
    # The fused attention kernels have no double backward; see `erase.core.meta`.
    kernels = sdpa_kernel(SDPBackend.MATH) if mode == "exact" else nullcontext()
    complete = False
    try:
        with step.moving() as theta, kernels:
            guard = _Guard(step, theta, alpha, beta, attacker)
            values, (retain_grad, v) = guard.ahead(retain, attacks if beta else [])
            stats = step.measure(values, (retain_grad, v), theta)
            if mode != "first-order" and forget_weight:
                guard.back(v, mode, bf16=precision == "bf16")
        torch._foreach_mul_(v, forget_weight)
        torch._foreach_add_(v, retain_grad)
        step.set_grads(v)
        stats = replace(stats, grad_norm=checked_norm("final gradient", step.grads()), alpha=alpha)
        complete = True
    finally:
        if not complete:
            step.pop_grads()
    return stats


class _Guard:
    """The way to where the forget loss is taken, and the chain rule back."""

    def __init__(
        self,
        step: Step,
        theta: list[Tensor],
        alpha: float,
        beta: float,
        attacker: Attacker | None,
    ) -> None:
        self.step = step
        self.theta = theta
        self.alpha = alpha
        self.beta = beta
        self.attacker = attacker
        self.moves: list[_Move] = []

    def ahead(
        self, retain: list[Loss], attacks: list[list[Loss]]
    ) -> tuple[tuple[float, float], tuple[list[Tensor], list[Tensor]]]:
        """L_r at theta and L_f at theta_K, and their gradients; theta_K is live afterwards."""
        step = self.step
        retain_loss = step.retain()
        retain_grad = step.pop_grads()
        if self.alpha:
            self.moves.append(_Move("retain", retain, self.alpha, self.theta, retain_grad))
            step.move(self.theta, retain_grad, -self.alpha)
        if self.attacker is not None:
            step.move(snapshot(step.params), self.attacker.displacement, 1.0)
        for losses in attacks:
            self._attack(losses)
        return (retain_loss, step.forget()), (retain_grad, step.pop_grads())

    def _attack(self, losses: list[Loss]) -> None:
        start = snapshot(self.step.params)
        self.step.gradient("relearn", losses)
        direction = gradient = self.step.pop_grads()
        if self.attacker is not None:
            checked_norm("relearn gradient", gradient)
            direction = self.attacker.direction(gradient)
            self.attacker.move(direction, -self.beta)
        if self.attacker is None or not self.attacker.adaptive:
            self.moves.append(_Move("relearn", losses, self.beta, start, gradient))
        self.step.move(start, direction, -self.beta)

    def back(self, v: list[Tensor], mode: str, *, bf16: bool) -> None:
        """Multiply v by I - length H of each move, the last one first, in place."""
        for move in reversed(self.moves):
            product = _product(self.step, move, v, mode, bf16=bf16)
            torch._foreach_sub_(v, product, alpha=move.length)


def _product(step: Step, move: _Move, v: list[Tensor], mode: str, *, bf16: bool) -> list[Tensor]:
    """H v at the start of an inner step."""
    length = norm(v)
    if length == 0:
        return [torch.zeros_like(g) for g in v]
    if mode == "exact":
        restore(step.params, move.start)
        step.add_product(move.name, move.losses, v, 1.0)
        return step.pop_grads()

    def evaluate(scale: float) -> None:
        step.gradient(move.name, move.losses, scale)

    difference(step, evaluate, move.start, move.gradient, v, length=length, bf16=bf16)
    return step.pop_grads()
