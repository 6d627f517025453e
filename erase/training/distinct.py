"""Whether there is something to forget: what a model sees of a concept and of its anchor differs.

Where both are the same, the forget loss is 0 and a closed form changes nothing. That is refused
before anything is rendered, as far as tokens and labels say it (`check_distinct`), else before
training (`check_encoded`), else at the end (`check_changed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.data.captioned import CaptionedImages
from erase.data.concepts import Concept
from erase.errors import InputError, RunError
from erase.models.class_conditional import class_labels
from erase.models.loading import ModelSource
from erase.scoring.names import plain
from erase.tasks.encoding import Captions
from erase.tasks.latents import LatentCache
from erase.training.sets import Images

REMEDY = "Give another --anchor, or other forget prompts."


def check_distinct(source: ModelSource, concept: Concept, sets: Mapping[str, Images]) -> None:
    """InputError for a forget caption whose anchors are all the same as itself to the model.

    The same are texts that differ in case or spaces only, texts of equal token ids, and names of
    one class.
    """
    forget = sets.get("forget")
    captions = forget.captions if isinstance(forget, CaptionedImages) else concept.forget
    anchors = dict(zip(concept.forget, concept.anchors, strict=True))
    instead = Captions({"forget": CaptionedImages((), captions)}, anchors).instead
    texts = sorted({text for caption, others in instead.items() for text in (caption, *others)})
    for sees in _views(source):
        seen = dict(zip(texts, sees(texts), strict=True))
        for caption in dict.fromkeys(captions):
            if all(seen[anchor] == seen[caption] for anchor in instead[caption]):
                anchor = instead[caption][0] if instead[caption] else ""
                raise InputError(
                    f"Nothing to forget: to {source.name}, {anchor!r}, which is shown instead, is"
                    f" the same as {caption!r}.",
                    REMEDY,
                )


View = Callable[[Sequence[str]], Sequence[Any]]
"""What a model sees of texts, comparable with `==`."""


def _views(source: ModelSource) -> list[View]:
    """In which ways texts are compared; equal in one of them is the same to the model."""
    if known := source.classes():
        return [lambda texts: class_labels(texts, known)]
    views: list[View] = [lambda texts: [plain(text) for text in texts]]
    folders = sorted(path for path in source.path.glob("tokenizer*") if path.is_dir())
    if folders:
        tokenizers = [_tokenizer(folder) for folder in folders]
        views.append(
            lambda texts: list(zip(*(tokenizer(texts) for tokenizer in tokenizers), strict=True))
        )
    return views


def _tokenizer(folder: Path) -> View:
    """The token ids of texts, cut as in training."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} holds no tokenizer that can be loaded: {str(error).splitlines()[0]}",
            "A complete diffusers folder is needed.",
        ) from error
    return lambda texts: [tuple(ids) for ids in tokenizer(list(texts), truncation=True).input_ids]


def check_encoded(cache: LatentCache) -> None:
    """RunError where the text encoders make the same of all forget captions and their anchors."""
    sets = cache.sets.get("forget")
    if sets is None or not len(sets.condition):
        return
    tensors = [t for name, t in cache.conditions.items() if name not in ("concept", "last")]
    if not tensors:
        return
    rows = sets.condition.unique().tolist()
    if all(
        torch.equal(tensor[row], tensor[anchor])
        for tensor in tensors
        for row in rows
        for anchor in cache.anchors[row].tolist()
    ):
        raise RunError(
            "Nothing to forget: the model encodes the concept as what is shown instead.",
            f"{REMEDY} If they differ, the text encoder's weights are broken.",
        )


def bits(parameters: Iterable[Tensor]) -> list[int]:
    """A sum over the bits of each tensor, which a change of its values changes.

    Both zeros count as one: an optimizer that adds nothing turns -0 into 0.
    """
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    values = (tensor.detach() + 0 for tensor in parameters)
    return [int(v.view(kinds[v.element_size()]).sum(dtype=torch.int64)) for v in values]


def check_changed(
    before: Sequence[int], parameters: Iterable[Tensor], losses: Sequence[float]
) -> None:
    """RunError for a run that forgot nothing.

    Args:
        before: `bits` of the parameters before the run.
        parameters: as they are now.
        losses: the forget loss of each step; empty for a method that has none.
    """
    if bits(parameters) == list(before):
        raise RunError(
            "The run changed no weight.",
            "Raise --learning-rate, take more steps than the warm-up has, or another --method.",
        )
    if losses and not any(losses):
        raise RunError(
            f"Nothing was forgotten: the forget loss was 0 in each of {len(losses)} steps.",
            "Give another --anchor, or check the forget images.",
        )
