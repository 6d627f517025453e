"""Randomness derived from names: (seed, step, …) → one generator, the same on every machine.

A run never carries random state from one step to the next, so a resumed run draws exactly what
an undisturbed one would have drawn.
"""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and strings."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def batch_indices(size: int, batch: int, step: int, *parts: int | str) -> torch.Tensor:
    """Indices `[batch]` into a set of `size` samples for step `step`, without replacement.

    Each epoch is one permutation drawn from (`parts`, epoch); a batch may span two epochs, and a
    set smaller than the batch is used several times in it. Sets of different sizes thus
    each keep their own epochs, and nothing is dropped at an epoch's end.
    """
    start = step * batch
    epochs = range(start // size, (start + batch - 1) // size + 1)
    order = torch.cat([torch.randperm(size, generator=generator(*parts, e)) for e in epochs])
    offset = start - epochs[0] * size
    return order[offset : offset + batch]
