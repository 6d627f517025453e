"""The losses of LUR (arXiv 2503.06339) as pure functions that return one value per sample.

They draw no random numbers and reduce over every dimension but the batch, so that a caller can
weight the samples (min-SNR, masks) and then average: ``(weight * noise_mse(pred, noise)).mean()``.
Half-precision inputs are compared in float32: a sum of squares in bfloat16 keeps only 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from erase.errors import InputError


def noise_mse(pred: Tensor, target: Tensor) -> Tensor:
    """Squared error of the denoiser on its own target: equations (12) and (14), the retain loss.

    Args:
        pred: the denoiser's output, ``[B, ...]`` (noise, v or velocity, as the scheduler says).
        target: its correct output, same shape, no broadcasting.

    Returns:
        ``[B]``, mean over all dimensions but the first, at least 0.

    Raises:
        InputError: the shapes differ, or there is no batch dimension.
    """
    _check_same_shape(pred, target)
    return _per_sample((_widen(pred) - _widen(target)).square())


def mismatch_mse(pred: Tensor, anchor_pred: Tensor, *, detach: bool = True) -> Tensor:
    """Distance to the prediction under another condition: equation (13), the forget loss.

    Minimising it makes the prediction under the forgotten condition equal that under the anchor.

    Args:
        pred: prediction for the forget sample under its own condition c, ``[B, ...]``.
        anchor_pred: prediction for the SAME noisy sample under c' != c, same shape.
        detach: stop the gradient through ``anchor_pred`` (the paper leaves this open; the sources
            it names detach). With False both branches are pulled towards each other.

    Returns:
        ``[B]``, mean over all dimensions but the first, at least 0.

    Raises:
        InputError: the shapes differ, or there is no batch dimension.
    """
    return noise_mse(pred, anchor_pred.detach() if detach else anchor_pred)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the true label: equation (9), the classifier's retain loss.

    Args:
        logits: unnormalised scores, ``[B, K]`` or ``[B, K, ...]``.
        labels: class indices in ``[0, K)``, int64, ``[B]`` or ``[B, ...]``.

    Returns:
        ``[B]`` in nats, mean over all dimensions but the batch, at least 0.

    Raises:
        InputError: the shapes do not belong together.
    """
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} "
            "do not belong together",
            "Give logits [B, K, ...] and integer labels [B, ...].",
        )
    return _per_sample(functional.cross_entropy(_widen(logits), labels, reduction="none"))


def negative_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with its sign turned: equation (10), the classifier's forget loss.

    Shapes and errors are those of `cross_entropy`. The values are at most 0 and have no lower
    bound: minimised without a retain loss they run away.
    """
    return -cross_entropy(logits, labels)


def _widen(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _per_sample(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _check_same_shape(pred: Tensor, target: Tensor) -> None:
    # Broadcasting [B, 1] against [B] would silently compare every sample with every other.
    if pred.ndim == 0 or pred.shape != target.shape:
        raise InputError(
            f"prediction of shape {tuple(pred.shape)} and target of shape {tuple(target.shape)} "
            "do not belong together",
            "Give two tensors of one shape [B, ...].",
        )
