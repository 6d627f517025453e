"""What methods for denoisers share: gradients of one or two losses, the Fisher diagonal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import Module

from erase.core.params import as_list
from erase.core.phases import Loss, Stats, Step, closures, norm
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


def summed_gradient(
    task: Denoiser,
    subset: str,
    name: str,
    each: PerSample,
    *,
    clip: float = 0.0,
) -> list[Tensor]:
    """Σ ∇ of a per-sample loss over a set, in evaluation mode.

    Args:
        task: holds the model and the images.
        subset: the set.
        name: name of the random stream for noise and timesteps.
        each: computes the loss of each sample of a batch, ``[B]``.
        clip: greatest norm of the gradient of the mean of a step's batch, which is clipped before
            it is summed; 0: no clipping.
    """
    if not clip:
        return synchronised(
            summed(task, task.ordered(subset, name), lambda batch: each(batch).sum())
        )
    batches = task.ordered(subset, name, size=task.batch_size)

    def clipped(gradients: Sequence[Tensor]) -> list[Tensor]:
        return list(torch._foreach_mul(list(gradients), min(1.0, clip / (norm(gradients) + 1e-6))))

    return synchronised(summed(task, batches, lambda batch: each(batch).mean(), whole=clipped))


def absolute_gradient(
    task: Denoiser, subset: str, name: str, each: PerSample, batches: int
) -> list[Tensor]:
    """Σ over some batches of the absolute gradient of a per-sample loss's mean, as SHs has it."""
    count = min(batches * task.batch_size, task.size(subset))
    noised = task.ordered(subset, name, count=count, size=task.batch_size)
    return synchronised(summed(task, noised, lambda batch: each(batch).mean(), torch.abs))


def summed(
    task: Denoiser,
    batches: Iterable[Noised],
    loss: Callable[[Noised], Tensor],
    function: Callable[[Tensor], Tensor] | None = None,
    *,
    whole: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """Σ over batches of a function of the loss's gradient: of each tensor, or of the whole."""
    parameters = as_list(task.parameters)
    total = [torch.zeros_like(p) for p in parameters]
    with evaluating(task.model):
        for batch in batches:
            gradients: Sequence[Tensor] = torch.autograd.grad(
                loss(batch).mean(), parameters, allow_unused=True, materialize_grads=True
            )
            if function is not None:
                gradients = [function(g) for g in gradients]
            if whole is not None:
                gradients = whole(gradients)
            torch._foreach_add_(total, list(gradients))
    return total


def is_first_process() -> bool:
    """Whether this process may write a file for all of them."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return True


def synchronised(tensors: list[Tensor]) -> list[Tensor]:
    """Copy the first process's values to all processes, in place.

    Every process computes the same values, but on a GPU sums may differ in their last bits. A mask
    made from them would differ in single places, and the weights of the processes would diverge.
    """
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
    return tensors
