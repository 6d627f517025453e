"""What to forget: `random:10%`, `class:NAME`, `worst:10%`, … or `indices:FILE`, as indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.core.rng import generator
from erase.errors import InputError
from erase.files import read_json
from erase.scoring.names import find_names

FORMS = (
    "random:10%, random:N, class:NAME[,NAME], classes:10%, classes:N, worst:10%, worst:N or"
    " indices:FILE"
)


def forget_indices(
    spec: str,
    labels: Tensor,
    classes: Sequence[str],
    *,
    trained_on: Tensor,
    seed: int,
    hardest: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Indices into the training set of the samples to forget, sorted, `[M]`.

    Args:
        spec: see `FORMS`; an indices file is JSON: a list, or a mapping with a list `indices`.
        labels: of the whole training set, `[N]`.
        classes: names of the classes.
        trained_on: indices that the model was trained on; only these can be forgotten.
        seed: of the random choice.
        hardest: gives that many of the samples that are hardest to forget, for `worst:…`; without
            it the first samples stand in for them, to check the spec before there is a model.

    Raises:
        InputError: the spec has another form, names an unknown class or samples that the model was
            not trained on, asks for too many, or leaves nothing to retain.
    """
    kind, _, value = spec.partition(":")
    trained_on = trained_on.cpu()
    labels = labels.cpu()
    if kind == "random" and value:
        count = _count(value, len(trained_on), "samples")
        order = torch.randperm(len(trained_on), generator=generator(seed, "forget", "random"))
        chosen = trained_on[order[:count]]
    elif kind == "worst" and value:
        count = _count(value, len(trained_on), "samples")
        chosen = trained_on[:count] if hardest is None else hardest(count)
    elif kind == "class" and value:
        chosen = _samples_of(find_names(value, classes), labels, trained_on)
    elif kind == "classes" and value:
        count = _count(value, len(classes), "classes")
        order = torch.randperm(len(classes), generator=generator(seed, "forget", "classes"))
        chosen = _samples_of(order[:count].tolist(), labels, trained_on)
    elif kind == "indices" and value:
        chosen = _from_file(Path(value), trained_on, len(labels))
    else:
        raise InputError(f"{spec!r} does not say what to forget.", f"Use {FORMS}.")
    if not len(chosen):
        raise InputError(f"{spec} leaves nothing to forget.", "Ask for at least one sample.")
    if len(chosen) == len(trained_on):
        raise InputError(f"{spec} leaves nothing to retain.", "Forget less.")
    return chosen.sort().values


def is_class_wise(spec: str) -> bool:
    """Whether whole classes are forgotten, so that TA leaves them out."""
    return spec.startswith(("class:", "classes:"))


def _count(value: str, available: int, what: str) -> int:
    try:
        count = round(float(value[:-1]) / 100 * available) if value.endswith("%") else int(value)
    except ValueError:
        raise InputError(f"{value!r} is no number of {what}.", f"Use {FORMS}.") from None
    if not 0 < count <= available:
        raise InputError(
            f"{value} is {count} of {available} {what}.", f"Ask for 1 to {available - 1} {what}."
        )
    return count


def _samples_of(chosen: Sequence[int], labels: Tensor, trained_on: Tensor) -> Tensor:
    return trained_on[torch.isin(labels[trained_on], torch.tensor(list(chosen)))]


def _from_file(path: Path, trained_on: Tensor, size: int) -> Tensor:
    content: Any = read_json(path, Any)
    indices = content.get("indices") if isinstance(content, dict) else content
    if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < size for i in indices):
        raise InputError(
            f"{path} is no list of indices from 0 to {size - 1}.", "Write a JSON list of them."
        )
    chosen = torch.tensor(sorted(set(indices)), dtype=torch.long)
    untrained = chosen[~torch.isin(chosen, trained_on)]
    if len(untrained):
        raise InputError(
            f"{path} asks to forget {len(untrained)} samples that the model was never trained on,"
            f" e.g. {int(untrained[0])}.",
            "Take the indices from the split in the model's model.json.",
        )
    return chosen
