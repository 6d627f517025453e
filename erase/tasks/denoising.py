"""What methods for denoisers share: gradients of one or two losses, the Fisher diagonal."""

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
    """Mixin for methods that also read images of the anchors."""

    sets: ClassVar[tuple[str, ...]] = ("forget", "retain", "anchor")


def two_gradients(
    task: Denoiser, retain: Sequence[Loss], forget: Sequence[Loss], reduce: Reduce | None
) -> tuple[list[Tensor], list[Tensor], Stats]:
    """∇L_r and ∇L_f, averaged over micro-batches and processes, with their statistics.

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
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def fisher(task: Denoiser, subset: str, count: int) -> list[Tensor]:
    """Diagonal of the empirical Fisher matrix: mean square of each sample's gradient.

    The loss is the denoising loss (mean over the sample's values, eqs. 12 and 14), at the current
    weights, in evaluation mode, with one noise and timestep for each sample.

    Args:
        task: holds the model and the images.
        subset: the set whose samples are used.
        count: at most this many of them.

    Returns:
        One tensor for each trained parameter, of its shape, with values of at least 0.
    """
    parameters = as_list(task.parameters)
    total = [torch.zeros_like(p) for p in parameters]
    samples = 0
    with evaluating(task.model):
        # One sample at a time: a batch would give the square of the mean gradient.
        for sample in task.ordered(subset, "fisher", count=count, size=1):
            loss = task.denoising(sample).mean()
            gradients = torch.autograd.grad(
                loss, parameters, allow_unused=True, materialize_grads=True
            )
            torch._foreach_add_(total, torch._foreach_mul(gradients, gradients))
            samples += 1
    torch._foreach_div_(total, samples)
    return synchronised(total)


def summed_gradient(
    task: Denoiser, subset: str, name: str, each: PerSample, *, count: int | None = None
) -> list[Tensor]:
    """Σ ∇ of a per-sample loss over a set, in evaluation mode.

    Args:
        task: holds the model and the images.
        subset: the set.
        name: name of the random stream for noise and timesteps.
        each: computes the loss of each sample of a batch, ``[B]``.
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
    return synchronised(total)


def synchronised(tensors: list[Tensor]) -> list[Tensor]:
    """Copy the first process's values to all processes, in place.

    Every process computes the same values, but on a GPU sums may differ in their last bits. A mask
    made from them would differ in single places, and the weights of the processes would diverge.
    """
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
    return tensors
