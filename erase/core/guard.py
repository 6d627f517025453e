"""The meta step whose look-ahead is an attacker's fine-tuning, for any model, over three closures.

An attacker who has some images of what was forgotten fine-tunes on them: K steps
theta_k+1 = theta_k - beta grad L_q(theta_k) on the relearning loss L_q, from theta_0 = theta. The
guard minimises

    L_r(theta) + lambda L_f(theta_K)

over theta, so that the concept is still forgotten where the attacker arrives. That may be joined
with LUR's own look-ahead: then theta_0 = theta - alpha grad L_r(theta). With v_K = grad L_f(theta_K)
and H_q, H_r the Hessians on the SAME batches, noise, timesteps and dropout masks, the chain rule
goes back through the attacker's steps,

    v_k = (I - beta H_q(theta_k)) v_k+1,      g = grad L_r(theta) + lambda (I - alpha H_r(theta)) v_0.

Each product is one difference of gradients in the mode `hvp` (`erase.core.meta` says how its step
is chosen), so a guard of one step takes one gradient more than LUR, and every further step takes
two. Meta-unlearning (Gao et al., ICCV 2025, arXiv 2410.12777) and ResAlign (Li et al., NeurIPS
2025, arXiv 2507.16302) look ahead in the same way, with other losses and other hypergradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from erase.core.meta import Loss, Stats, check_options, difference, relative_step
from erase.core.params import as_list, restore, snapshot
from erase.core.phases import Step, checked_norm, closures, norm
from erase.errors import InputError

GuardMode = Literal["hvp", "exact", "first-order"]


@dataclass(frozen=True)
class _Move:
    """One inner step: its loss, its length, where it started and the gradient there."""

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
    precision: Literal["bf16"] | None = None,
) -> Stats:
    """Leave the gradient of ``L_r(theta) + lambda L_f(theta_K)`` in `p.grad`.

    Whatever was in `p.grad` is overwritten; the parameters end bit for bit as they began, also
    when a closure raises (`p.grad` is None then). Memory: two copies of the parameters for each
    inner step, and two more.

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
        precision: "bf16" if the closures run under bfloat16 autocast: differences are central.

    Returns:
        Losses, gradient norms and the cosine of grad L_r(theta) and grad L_f(theta_K).

    Raises:
        InputError: parameters, closures or numbers that cannot be used.
        NonFiniteLossError: a loss or gradient is NaN or infinite.
    """
    check_options(mode, precision, alpha=alpha, beta=beta, forget_weight=forget_weight)
    if mode == "joint":
        raise InputError("a guard has no mode 'joint'", "Use hvp, exact or first-order.")
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
    complete = False
    try:
        with step.moving() as theta, sdpa_kernel(_kernels(mode)):
            first = [("retain", retain, alpha)] if alpha else []
            later = [("relearn", losses, beta) for losses in attacks] if beta else []
            stats = _guarded(step, theta, first + later, mode, bf16=precision == "bf16")
        stats = replace(stats, grad_norm=checked_norm("final gradient", step.grads()), alpha=alpha)
        complete = True
    finally:
        if not complete:
            step.pop_grads()
    return stats


def _kernels(mode: str) -> list[SDPBackend]:
    # The fused attention kernels have no double backward; see `erase.core.meta`.
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    return [SDPBackend.MATH] if mode == "exact" else [*fused, SDPBackend.MATH]


def _guarded(
    step: Step,
    theta: list[Tensor],
    inner: list[tuple[str, list[Loss], float]],
    mode: str,
    *,
    bf16: bool,
) -> Stats:
    retain_loss = step.retain()
    retain_grad = step.pop_grads()
    moves: list[_Move] = []
    for name, losses, length in inner:
        start = snapshot(step.params) if moves else theta
        gradient = retain_grad
        if name != "retain":
            step.gradient(name, losses)
            gradient = step.pop_grads()
        moves.append(_Move(name, losses, length, start, gradient))
        step.move(start, gradient, -length)
    values = retain_loss, step.forget()
    v = step.pop_grads()
    stats = step.measure(values, (retain_grad, v), theta)
    for move in reversed(moves if mode != "first-order" and step.weight else []):
        torch._foreach_sub_(v, _product(step, move, v, mode, bf16=bf16), alpha=move.length)
    torch._foreach_mul_(v, step.weight)
    torch._foreach_add_(v, retain_grad)
    step.set_grads(v)
    return stats


def _product(step: Step, move: _Move, v: list[Tensor], mode: str, *, bf16: bool) -> list[Tensor]:
    """H v at the start of an inner step."""
    size = norm(v)
    if size == 0:
        return [torch.zeros_like(g) for g in v]
    if mode == "exact":
        restore(step.params, move.start)
        step.add_product(move.name, move.losses, v, 1.0)
        return step.pop_grads()
    eps = relative_step(step.params, bf16=bf16) * (norm(move.start) or 1.0) / size

    def evaluate(scale: float) -> None:
        step.gradient(move.name, move.losses, scale)

    difference(step, evaluate, move.start, move.gradient, v, eps, central=bf16)
    return step.pop_grads()
