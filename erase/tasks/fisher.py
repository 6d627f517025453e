"""Diagonals of the Fisher matrix of a denoiser, and their file."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erase.core.params import as_list
from erase.core.rng import generator
from erase.errors import InputError
from erase.files import write_bytes
from erase.tasks.denoising import evaluating, summed, synchronised
from erase.tasks.protocol import Denoiser, Noised


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
    # One sample at a time: a batch would give the square of the mean gradient.
    samples = list(task.ordered(subset, "fisher", count=count, size=1))
    total = summed(task, samples, task.denoising, torch.square)
    torch._foreach_div_(total, len(samples))
    return synchronised(total)


def trajectory_fisher(
    task: Denoiser, subset: str, count: int, timesteps: int | None = None
) -> list[Tensor]:
    """Mean over images of the square of the gradient that is summed over all timesteps.

    So selective amnesia computes F. With T timesteps it takes T passes an image. From n of them,
    drawn for each image, the square of the sum is estimated without bias: with the mean m and the
    variance s² of the n gradients, T² (m² − s²/n) + T s², which is set to 0 where it is negative.

    Args:
        task: holds the model and the images; evaluation mode, current weights, losses as in
            `fisher`.
        subset: the set whose images are used.
        count: at most this many of them.
        timesteps: n; None: all T.

    Returns:
        One tensor for each trained parameter, of its shape, with values of at least 0.
    """
    parameters = as_list(task.parameters)
    total = [torch.zeros_like(p) for p in parameters]
    images = 0
    with evaluating(task.model):
        for number, image in enumerate(task.ordered(subset, "fisher", count=count, size=1)):
            steps = task.noised_at(image, timesteps, generator(task.seed, number, "fisher steps"))
            if timesteps is None:
                size = task.micro_batch_size
                starts = range(0, len(steps.timesteps), size)
                chunks = [steps.part(slice(k, k + size), task.device) for k in starts]
                square = _squares(summed(task, chunks, lambda batch: task.denoising(batch).sum()))
            else:
                square = _estimated(task, steps, task.timestep_count)
            torch._foreach_add_(total, square)
            images += 1
    torch._foreach_div_(total, images)
    return synchronised(total)


def _squares(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.square() for tensor in tensors]


def _estimated(task: Denoiser, steps: Noised, total: int) -> list[Tensor]:
    """Estimate of the squared sum of the gradients of `total` timesteps from those drawn."""
    n = len(steps.timesteps)
    single = [steps.part(slice(k, k + 1), task.device) for k in range(n)]
    parameters = as_list(task.parameters)
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for batch in single:
        gradients = torch.autograd.grad(
            task.denoising(batch).mean(), parameters, allow_unused=True, materialize_grads=True
        )
        torch._foreach_add_(first, list(gradients))
        torch._foreach_add_(second, _squares(list(gradients)))
    found = []
    for summed_gradient, squares in zip(first, second, strict=True):
        mean = summed_gradient / n
        variance = (squares / n - mean.square()).clamp(min=0) * n / (n - 1)
        found.append((total**2 * (mean.square() - variance / n) + total * variance).clamp(min=0))
    return found


def tensors_key(parameters: Mapping[str, Tensor]) -> str:
    """Hash of names and values, by which a file is known to belong to a model."""
    digest = hashlib.sha256()
    for name, p in parameters.items():
        digest.update(name.encode())
        digest.update(p.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_diagonal(path: Path, diagonal: Mapping[str, Tensor], key: str) -> None:
    """Write a diagonal as safetensors, atomically, with the key of the model it belongs to."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in diagonal.items()}
    write_bytes(path, save(tensors, {"parameters": key}))


def read_diagonal(path: Path, parameters: Mapping[str, Tensor], key: str) -> list[Tensor]:
    """Read a diagonal of these parameters; InputError if it is another model's, or no diagonal."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("parameters") != key:
                raise InputError(
                    f"{os.fspath(path)} is the Fisher diagonal of other weights.",
                    "Give another --set fisher_file, or delete the file: it is made anew.",
                )
            return [file.get_tensor(name).to(p.device) for name, p in parameters.items()]
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{os.fspath(path)} is not a readable Fisher diagonal.", "Delete it; it is made anew."
        ) from error
