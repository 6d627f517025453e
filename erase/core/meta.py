"""The LUR step (arXiv 2503.06339, equation 2) for any model, over two closures.

With the inner step theta' = theta - alpha grad L_r(theta), LUR minimises
``L_r(theta) + lambda L_f(theta')`` over theta. Its gradient is

    g = grad L_r(theta) + lambda (I - alpha H_r(theta)) v,      v = grad L_f(theta')

with H_r the Hessian of L_r on the SAME batch, noise, timesteps and dropout masks. The modes of
`meta_gradient` differ in what they do about ``- alpha lambda H_r v``, the correction.

How `hvp` chooses its step
--------------------------
It replaces ``-H_r v`` by ``(grad L_r(theta - eps v) - grad L_r(theta)) / eps`` and has to choose
eps. The error depends on how far the parameters move relative to their own size,
``c = eps |v| / |theta|``. A large c brings an error from the third derivative, proportional to c. A
small c brings an error from the rounding of the two gradients, proportional to u / c with u the
unit roundoff. ``eps = sqrt(u) (1 + |theta|) / |v|`` of the textbooks balances the two for a
function whose third derivative is of the size of its second. Here the gradient changes much faster
than that, and autograd's rounding errors at two neighbouring points are in part the same and
cancel, so the best c is smaller. Measured, as the error of the correction on small networks with
smooth activations:

    denoising UNet      100 c  +  1e-8 / c in float32,  1e-17 / c in float64
    MLP, convolutions     3 c  +  1e-7 / c in float32,  1e-16 / c in float64

The sums are least at c = 1e-5 and 2e-4 (float32), 4e-10 and 6e-9 (float64). `STEP` takes the
UNet's, which costs the others little: 0.1% on the UNet and 0.5 to 1.5% on the others in float32,
2e-7 in float64. The textbook step, 2.4e-4 in float32, would err by 2% on this small UNet, and by
10 to 28% on larger ones. Under bfloat16 autocast the gradients carry 8 bits, so that c has
to grow and the error linear in c has to be cancelled by central differences: on a UNet with 32
channels the error is 12% at c = 1e-4, 4% at 3e-4, 6% at 1e-3. Roundings average out over the
parameters; on a network with 8 channels they exceed the correction (over 100%): use float32 there.

eps never exceeds ``alpha lambda``: at that length the quotient, multiplied by ``alpha lambda``, is
just ``grad L_r(theta - alpha lambda v) - grad L_r(theta)``; the first term of g cancels, no
difference is divided by a small number, and a copy of the parameters is saved ("shift").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from erase.core.params import as_list
from erase.core.phases import (
    Loss,
    NonFiniteLossError,
    Stats,
    Step,
    checked_norm,
    closures,
    dot,
    norm,
)
from erase.errors import InputError

__all__ = ["Loss", "Mode", "NonFiniteLossError", "Stats", "meta_gradient"]

Mode = Literal["hvp", "exact", "first-order", "joint"]

STEP = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Relative length c of the finite-difference step by parameter dtype (see the module docstring)."""
STEP_BF16 = 3e-4
"""The same under bfloat16 autocast, where the gradients carry 8 bits; differences are central."""
CURVATURE_TOLERANCE = 0.1
"""Largest relative difference of the correction between two steps that passes without a warning."""


def _relative_step(params: Sequence[Tensor], *, bf16: bool) -> float:
    """The relative length c of a finite difference for these parameters (module docstring)."""
    return STEP_BF16 if bf16 else max(STEP[p.dtype] for p in params)


def meta_gradient(
    params: Iterable[Tensor] | Mapping[str, Tensor],
    retain_loss: Loss | Sequence[Loss],
    forget_loss: Loss | Sequence[Loss],
    *,
    alpha: float,
    forget_weight: float = 1.0,
    mode: Mode = "hvp",
    reduce: Callable[[Tensor], Tensor] | None = None,
    diagnose: bool = True,
    check_curvature: bool = False,
    measure_curvature: bool = False,
    precision: Literal["bf16"] | None = None,
) -> Stats:
    """Leave the gradient of ``L_r(theta) + lambda L_f(theta - alpha grad L_r(theta))`` in `p.grad`.

    Whatever was in `p.grad` is overwritten; the parameters end bit for bit as they began, also
    when a closure raises (`p.grad` is None then).

    The modes, with the number of gradient evaluations and the memory on top of `joint`'s:

    * `hvp`: finite differences along v (module docstring). 3 evaluations, no double backward, so
      fused attention, gradient checkpointing, autocast and torch.compile keep working. Two copies
      of the parameters. For smooth networks.
    * `exact`: double backward. 2 evaluations and a second-order one, whose graph is kept in between
      (of several micro-batches it is made anew); small models, and networks with kinks (ReLU),
      where finite differences do not converge to autograd's Hessian.
    * `first-order`: leaves the correction out. 2 evaluations, one copy. An ablation.
    * `joint`: LUR-b (appendix B.2), ``grad L_r(theta) + lambda grad L_f(theta)``. 2 evaluations.

    Args:
        params: float32 or float64 leaf tensors to train. Freeze every other parameter of the
            model (`select_parameters` does), or it gets a `.grad` too. A parameter that a loss
            does not use counts as having gradient zero there.
        retain_loss: L_r, a closure that reads the live parameters and returns a 0-dim tensor, or
            micro-batches: a sequence of such closures of equal weight, which are averaged. A
            closure is called up to four times and must give the same value each time, bit for
            bit (`FixedLoss`). It enters autocast itself, per call.
        forget_loss: L_f, likewise.
        alpha: inner step size, at least 0. At 0 every mode is `joint`.
        forget_weight: lambda, at least 0.
        mode: see above.
        reduce: averages a tensor over processes, e.g. ``lambda t: accelerator.reduce(t, "mean")``.
            It is applied to gradients and losses after EACH phase, so that theta' is the same
            everywhere: N processes on N shards equal one process on all of them.
        diagnose: measure the cosine. Costs one more copy of the parameters in `joint` and
            `first-order`.
        check_curvature: in `hvp`, compute the correction with twice the step as well, report how
            far the two differ, and warn above 10%. One evaluation (two with `precision`) and two
            copies more.
        measure_curvature: report v · H_r v and |H_r v| / |v| from the product that the correction
            needs anyway, in `hvp` and `exact`; the product is then made also where alpha is 0 or
            too small to need a quotient. One copy of the parameters more.
        precision: "bf16" if the closures run under bfloat16 autocast: `hvp` then takes a longer
            step and central differences, 4 evaluations.

    Returns:
        Losses, gradient norms, cosine.

    Raises:
        InputError: no parameters, a wrong kind of parameter, no closures, a loss that is not 0-dim
            or has no gradient, or alpha, lambda, mode or precision out of range, or a curvature
            asked of a mode that makes no product.
        NonFiniteLossError: a loss or gradient is NaN or infinite.
    """
    check_options(mode, precision, alpha=alpha, forget_weight=forget_weight)
    if measure_curvature and mode not in ("hvp", "exact"):
        raise InputError(f"the mode '{mode}' makes no curvature product", "Use hvp or exact.")
    step = Step(
        as_list(params),
        closures("retain_loss", retain_loss),
        closures("forget_loss", forget_loss),
        reduce,
        alpha,
        forget_weight,
        diagnose,
    )
    complete = False
    try:
        if measure_curvature and mode == "hvp":
            stats = _hvp_measured(step, bf16=precision == "bf16")
        elif measure_curvature:
            stats = _exact(step, measure=True)
        elif mode == "joint" or alpha == 0:
            stats = _joint(step)
        elif mode == "first-order" or forget_weight == 0:
            stats = _first_order(step)
        elif mode == "exact":
            stats = _exact(step)
        else:
            stats = _hvp(step, bf16=precision == "bf16", check=check_curvature)
        stats = replace(
            stats,
            grad_norm=checked_norm("final gradient", step.grads()),
            alpha=None if mode == "joint" else alpha,
        )
        complete = True
    finally:
        if not complete:
            step.pop_grads()
    return stats


def _joint(step: Step) -> Stats:
    # Nothing depends on the mean retain gradient here: average once, after both.
    retain_loss = step.retain(sync=step.diagnose)
    if not step.diagnose:
        # Straight onto the retain gradient: no second buffer.
        return Stats(retain_loss, step.forget(step.weight), 0.0)
    retain_grad = step.pop_grads()
    losses = retain_loss, step.forget()
    stats = step.measure(losses, (retain_grad, step.grads()))
    _add(step, retain_grad)
    return stats


def _first_order(step: Step) -> Stats:
    retain_loss = step.retain()
    with step.moving() as theta:
        step.move(theta, step.grads(), -step.alpha)
        if not step.diagnose:
            return Stats(retain_loss, step.forget(step.weight), 0.0)
        retain_grad = step.pop_grads()
        losses = retain_loss, step.forget()
        stats = step.measure(losses, (retain_grad, step.grads()), theta)
    _add(step, retain_grad)
    return stats


def _add(step: Step, retain_grad: list[Tensor]) -> None:
    """`p.grad` <- retain_grad + lambda p.grad, in retain_grad's memory."""
    forget_grad = step.pop_grads()
    torch._foreach_add_(retain_grad, forget_grad, alpha=step.weight)
    step.set_grads(retain_grad)


def _exact(step: Step, *, measure: bool = False) -> Stats:
    # The fused attention kernels have no double backward. All phases use the same kernel, because
    # another one may draw another dropout mask.
    with sdpa_kernel(SDPBackend.MATH):
        retain_loss, add_product = step.retain_with_product()
        retain_grad = step.pop_grads()
        with step.elsewhere(retain_grad, -step.alpha) as theta:
            losses = retain_loss, step.forget()
            stats = step.measure(losses, (retain_grad, step.grads()), theta)
        v = step.pop_grads()
        if not measure or not stats.forget_grad_norm:
            step.set_grads(retain_grad)
            add_product(v, -step.reach)
            torch._foreach_add_(step.grads(), v, alpha=step.weight)
            return stats
        step.set_grads([torch.zeros_like(g) for g in retain_grad])
        add_product(v, 1.0)
    return _with_curvature(step, stats, retain_grad, v)


def _hvp(step: Step, *, bf16: bool, check: bool) -> Stats:
    constant = _relative_step(step.params, bf16=bf16)
    retain_loss = step.retain()
    with step.moving() as theta:
        retain_grad = step.grads()
        step.move(theta, retain_grad, -step.alpha)
        step.pop_grads()
        losses = retain_loss, step.forget()
        v = step.pop_grads()
        stats = step.measure(losses, (retain_grad, v), theta)
        if not stats.forget_grad_norm:
            step.set_grads(retain_grad)
            return stats
        eps = step.reach if not stats.rho else min(1.0, constant / stats.rho) * step.reach
        if eps == step.reach and not check:
            # Shift: the retain gradient cancels, and v becomes the start of the result.
            del retain_grad
            step.move(theta, v, -eps)
            torch._foreach_mul_(v, step.weight)
            step.set_grads(v)
            del v
            step.retain()
            return stats
        central = bf16 and eps < step.reach
        if check:
            error = _curvature_error(step, theta, retain_grad, v, eps, central)
            stats = replace(stats, curvature_error=error)
        step.set_grads(retain_grad)
        _add_correction(step, theta, retain_grad, v, eps, central)
    return stats


def _hvp_measured(step: Step, *, bf16: bool) -> Stats:
    """As `_hvp`, with H_r v by itself, so that it can be measured."""
    retain_loss = step.retain()
    with step.moving() as theta:
        step.move(theta, step.grads(), -step.alpha)
        retain_grad = step.pop_grads()
        losses = retain_loss, step.forget()
        v = step.pop_grads()
        stats = step.measure(losses, (retain_grad, v), theta)
        if not stats.forget_grad_norm:
            step.set_grads(retain_grad)
            return stats
        length = stats.forget_grad_norm
        difference(step, step.retain, theta, retain_grad, v, length=length, bf16=bf16)
    return _with_curvature(step, stats, retain_grad, v)


def _with_curvature(step: Step, stats: Stats, retain_grad: list[Tensor], v: list[Tensor]) -> Stats:
    """The whole gradient in place of H_r v in `p.grad`, and the curvature in the statistics."""
    product = step.pop_grads()
    size = checked_norm("curvature product", product) / (stats.forget_grad_norm or 1.0)
    stats = replace(stats, curvature=dot(v, product), curvature_size=size)
    torch._foreach_add_(retain_grad, v, alpha=step.weight)
    torch._foreach_add_(retain_grad, product, alpha=-step.reach)
    step.set_grads(retain_grad)
    return stats


def difference(
    step: Step,
    evaluate: Callable[[float], object],
    start: list[Tensor],
    gradient: list[Tensor],
    v: list[Tensor],
    *,
    length: float,
    bf16: bool,
) -> None:
    """Leave H v in `p.grad`, as a difference of gradients of one loss (see the module docstring).

    Args:
        step: its parameters move away from `start`, and stay there.
        evaluate: adds a number times the loss's gradient at the live parameters to `p.grad`.
        start: the parameters at which H is taken.
        gradient: that of the loss at `start`.
        v: the direction.
        length: its norm, above 0.
        bf16: whether the loss runs under bfloat16 autocast: the difference looks to both sides
            then, and `gradient` is not used.
    """
    eps = _relative_step(step.params, bf16=bf16) * (norm(start) or 1.0) / length
    if bf16:
        step.move(start, v, -eps)
        evaluate(-0.5 / eps)
        step.move(start, v, eps)
        evaluate(0.5 / eps)
        return
    step.set_grads([g / eps for g in gradient])
    step.move(start, v, -eps)
    evaluate(-1 / eps)


def _add_correction(
    step: Step,
    theta: list[Tensor],
    retain_grad: list[Tensor],
    v: list[Tensor],
    eps: float,
    central: bool,
) -> None:
    """Add ``- alpha lambda H_r v + lambda v`` to `p.grad`; empties the list v.

    `p.grad` may be `retain_grad` itself. The shifted gradients are accumulated onto it as they
    come, already weighted, so they need no buffer of their own.
    """
    ratio = step.reach / eps
    grads = step.grads()
    if central:
        torch._foreach_add_(grads, v, alpha=step.weight)
        step.move(theta, v, -eps)
        step.retain(ratio / 2)
        step.move(theta, v, eps)
        v.clear()
        step.retain(-ratio / 2)
    else:
        torch._foreach_add_(grads, retain_grad, alpha=-ratio)
        torch._foreach_add_(grads, v, alpha=step.weight)
        step.move(theta, v, -eps)
        v.clear()
        step.retain(ratio)


def _curvature_error(
    step: Step,
    theta: list[Tensor],
    retain_grad: list[Tensor],
    v: list[Tensor],
    eps: float,
    central: bool,
) -> float:
    """Relative difference of the corrections with steps eps and 2 eps; warns if it is large.

    Twice the step doubles an error that grows with it and halves one that shrinks with it, so the
    difference is about the error of the correction in use, whichever dominates.
    """
    corrections = []
    for length in (eps, 2 * eps):
        step.set_grads([torch.zeros_like(g) for g in retain_grad])
        _add_correction(step, theta, retain_grad, list(v), length, central)
        corrections.append(step.pop_grads())
        torch._foreach_sub_(corrections[-1], v, alpha=step.weight)
    size = norm(corrections[0])
    torch._foreach_sub_(corrections[1], corrections[0])
    error = norm(corrections[1]) / size if size > 0 else 0.0
    if error > CURVATURE_TOLERANCE:
        warnings.warn(
            f"the finite-difference correction of the meta gradient is off by about {error:.0%}; "
            "use mode 'exact', or smooth activations",
            RuntimeWarning,
            stacklevel=4,
        )
    return error


def check_options(mode: str, precision: str | None, **numbers: float) -> None:
    """InputError for an unknown mode or precision, and for a number below 0 or not finite."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}", "Use a finite number of at least 0.")
    if mode not in get_args(Mode):
        raise InputError(f"unknown mode '{mode}'", f"Use one of {', '.join(get_args(Mode))}.")
    if precision not in (None, "bf16"):
        raise InputError(f"unknown precision '{precision}'", "Use None or 'bf16'.")
