"""Choosing the most salient weights, masking the others, and trimming (Scissorhands)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from erase.errors import InputError


def top_share(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """Mark the largest values over all tensors together.

    Args:
        values: scores, any shapes.
        share: of all elements to mark, in ``[0, 1]``; rounded to a whole number of elements.

    Returns:
        Boolean tensors of the same shapes; exactly ``round(share * N)`` elements are True, ties
        broken by position.

    Raises:
        InputError: the share is out of range.
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share of {share} is out of range", "Use a number from 0 to 1.")
    flat = torch.cat([value.flatten() for value in values])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[torch.topk(flat, round(share * flat.numel())).indices] = True
    parts = mask.split([value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


class Mask:
    """Lets only some weights change, whatever momentum and weight decay do.

    A masked gradient is not enough: weight decay changes every weight, and momentum continues
    earlier changes. So the frozen weights are also set back, bit for bit, after each step.
    """

    def __init__(self, parameters: Sequence[Tensor], moves: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._moves = list(moves)
        self._original = [p.detach().clone() for p in parameters]

    @property
    def share(self) -> float:
        """Share of the weights that may move."""
        return sum(int(m.sum()) for m in self._moves) / sum(m.numel() for m in self._moves)

    def gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients with zeros at the frozen weights."""
        pairs = zip(gradients, self._moves, strict=True)
        return [torch.where(moves, gradient, 0.0) for gradient, moves in pairs]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the frozen weights their original values."""
        for p, moves, original in zip(self._parameters, self._moves, self._original, strict=True):
            p.copy_(torch.where(moves, p, original))


def layers_matching(module: nn.Module, pattern: str) -> dict[str, nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers whose full name contains a match of the regular expression.

    Raises:
        InputError: the expression is not valid, or no layer matches.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{pattern!r} is not a regular expression: {error}", "Correct it."
        ) from error
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    matching = {name: layer for name, layer in layers.items() if expression.search(name)}
    if not matching:
        raise InputError(
            f"{pattern!r} matches no convolution or linear layer of this model",
            f"Its layers are named like {', '.join(list(layers)[-3:])}.",
        )
    return matching


@torch.no_grad()
def trim(
    module: nn.Module,
    gradients: Mapping[str, Tensor],
    *,
    layers: str,
    sparsity: float,
    slope: float,
    generator: torch.Generator,
) -> int:
    """Re-initialise the weights that matter most to the forget set, in place.

    The saliency of a weight is |gradient × weight|. The top ``1 - sparsity`` of all weights that
    have a gradient are salient; those of them that lie in the chosen layers get values of a Kaiming
    uniform initialisation, biases 0. So the quantile is the whole network's, and the share that is
    re-initialised within the chosen layers may be smaller or larger.

    Args:
        module: the model.
        gradients: of the forget loss, by full parameter name; sums of absolute values over batches.
        layers: regular expression for the names of the chosen layers.
        sparsity: share s of the weights that are not salient, in ``[0, 1]``.
        slope: negative slope a of the initialisation: values up to √(6 / ((1 + a²) fan_in)).
        generator: CPU generator of the fresh values.

    Returns:
        Number of weights that were re-initialised.

    Raises:
        InputError: no layer matches, or the sparsity is out of range.
    """
    weights = dict(module.named_parameters())
    salient = dict(
        zip(
            gradients,
            top_share([(g * weights[name]).abs() for name, g in gradients.items()], 1 - sparsity),
            strict=True,
        )
    )
    count = 0
    for name, layer in layers_matching(module, layers).items():
        for part, p in layer.named_parameters(recurse=False):
            mask = salient[f"{name}.{part}"]
            fresh = torch.zeros(p.shape)
            if p.ndim > 1:
                nn.init.kaiming_uniform_(fresh, a=slope, generator=generator)
            p.copy_(torch.where(mask, fresh.to(p.device), p))
            count += int(mask.sum())
    return count


@torch.no_grad()
def shrink(parameters: Sequence[Tensor], original: Sequence[Tensor], share: float) -> None:
    """Soft thresholding of the changes, in place: the proximal step of ℓ1 on θ − θ_0.

    The threshold is the size of the change below which `share` of all weights lie; changes
    within it are undone, larger ones are reduced by it.

    Args:
        parameters: θ.
        original: θ_0, of the same shapes.
        share: in ``[0, 1]``; 0 changes nothing.
    """
    changes = torch.cat([(p - o).flatten() for p, o in zip(parameters, original, strict=True)])
    rank = int(share * changes.numel())
    if rank == 0:
        return
    threshold = changes.abs().kthvalue(rank).values
    kept = torch.nn.functional.softshrink(changes, float(threshold))
    sizes = [p.numel() for p in parameters]
    for p, o, change in zip(parameters, original, kept.split(sizes), strict=True):
        p.copy_(torch.where(change.view_as(p) == 0, o, o + change.view_as(p)))
