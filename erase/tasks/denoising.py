"""What methods for denoisers share: gradients of one loss or two, the Fisher diagonal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import Module

from erase.core.params import as_list
from erase.core.phases import Loss, Stats, Step, closures
from erase.tasks.protocol import Denoiser, Noised, Reduce

PerSample = Callable[[Noised], Tensor]


class WithAnchorImages:
    """Mixed into methods that look at images of what is shown instead."""

    sets: ClassVar[tuple[str, ...]] = ("forget", "retain", "anchor")


def two_gradients(
    task: Denoiser, retain: Sequence[Loss], forget: Sequence[Loss], reduce: Reduce | None
) -> tuple[list[Tensor], list[Tensor], Stats]:
    """∇L_r and ∇L_f, averaged over micro-batches and processes, with what was seen on the way.

    Raises:
        NonFiniteLossError: a loss or a gradient is not finite.
    """
    step = _step(task, retain, forget, reduce)
    retain_loss = step.retain()
    retain_gradient = step.pop_grads()
    forget_loss = step.forget()
    forget_gradient = step.pop_grads()
    stats = step.measure((retain_loss, forget_loss), (retain_gradient, forget_gradient))
    return retain_gradient, forget_gradient, stats


def forget_gradient(
    task: Denoiser, losses: Sequence[Loss], reduce: Reduce | None
) -> tuple[list[Tensor], Stats]:
    """∇L_f alone, averaged over micro-batches and processes.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite.
    """
    step = _step(task, losses, losses, reduce)
    loss = step.forget()
    gradient = step.pop_grads()
    norm = step.measure((loss, loss), (gradient, gradient)).forget_grad_norm
    return gradient, Stats(float("nan"), loss, norm or 0.0, forget_grad_norm=norm)


def retain_gradient(
    task: Denoiser, losses: Sequence[Loss], reduce: Reduce | None
) -> tuple[list[Tensor], Stats]:
    """∇L_r alone; see `forget_gradient`."""
    gradient, stats = forget_gradient(task, losses, reduce)
    norm = stats.forget_grad_norm
    return gradient, Stats(stats.forget_loss, float("nan"), norm or 0.0, retain_grad_norm=norm)


def _step(
    task: Denoiser, retain: Sequence[Loss], forget: Sequence[Loss], reduce: Reduce | None
) -> Step:
    return Step(
        as_list(task.parameters),
        closures("retain_loss", retain),
        closures("forget_loss", forget),
        reduce,
        alpha=0.0,
        weight=1.0,
        diagnose=True,
    )


def weighted(
    first: Sequence[Tensor], second: Sequence[Tensor], weight: float = 1.0
) -> list[Tensor]:
    """First + weight × second, tensor by tensor."""
    return list(torch._foreach_add(list(first), list(second), alpha=weight))


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode: no dropout."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def fisher(task: Denoiser, subset: str, count: int) -> list[Tensor]:
    """Diagonal of the empirical Fisher matrix: mean square of each sample's gradient.

    Of the denoising loss (mean over the sample's numbers, eqs. 12 and 14) at the weights as they
    are now, in evaluation mode, one noise and timestep a sample.

    Args:
        task: where the model and the images are.
        subset: the set whose samples are used.
        count: at most this many of them.

    Returns:
        One tensor a trained parameter, of its shape, at least 0.
    """
    parameters = as_list(task.parameters)
    total = [torch.zeros_like(p) for p in parameters]
    seen = 0
    with evaluating(task.model):
        # One sample at a time: the square of a batch's mean gradient is something else.
        for sample in task.ordered(subset, "fisher", count=count, size=1):
            loss = task.denoising(sample).mean()
            gradients = torch.autograd.grad(
                loss, parameters, allow_unused=True, materialize_grads=True
            )
            torch._foreach_add_(total, torch._foreach_mul(gradients, gradients))
            seen += 1
    torch._foreach_div_(total, seen)
    return agreed(total)


def summed_gradient(
    task: Denoiser, subset: str, name: str, each: PerSample, *, count: int | None = None
) -> list[Tensor]:
    """Σ ∇ of a per-sample loss over a set, in evaluation mode.

    Args:
        task: where the model and the images are.
        subset: the set.
        name: of the random stream of noise and timesteps.
        each: loss of each sample of a batch, ``[B]``.
        count: at most this many samples; default: all.
    """
    parameters = as_list(task.parameters)
    total = [torch.zeros_like(p) for p in parameters]
    with evaluating(task.model):
        for batch in task.ordered(subset, name, count=count):
            gradients = torch.autograd.grad(
                each(batch).sum(), parameters, allow_unused=True, materialize_grads=True
            )
            torch._foreach_add_(total, gradients)
    return agreed(total)


def agreed(tensors: list[Tensor]) -> list[Tensor]:
    """The first process's values, in place, on all of them.

    Every process works the same thing out, but on a GPU sums may differ in their last bits from
    run to run, and a mask made of them in single places: the weights would drift apart.
    """
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
    return tensors
