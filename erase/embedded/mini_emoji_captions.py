"""Draws the training captions of `mini-emoji`: all of them tokenised once, chosen on the device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from erase.data.emoji import KINDS, Vocabulary, Words

MIX: tuple[tuple[str, str, float], ...] = (
    ("empty", "", 0.10),  # for classifier-free guidance
    ("generic", "", 0.02),
    ("train", "object", 0.15),
    ("train", "object style", 0.18),
    ("train", "object colour", 0.13),
    ("train", "object style colour", 0.25),
    ("train", "style", 0.03),
    ("train", "colour", 0.02),
    ("train", "style colour", 0.02),
    ("paraphrase", "object", 0.05),
    ("paraphrase", "object style", 0.03),
    ("paraphrase", "object colour", 0.015),
    ("paraphrase", "style", 0.005),
)
"""List of templates, kinds that the caption names, and share of the captions."""
OTHER_WORDS: tuple[Words, ...] = ("synonyms", "descriptions")


class CaptionDrawer:
    """Draws a tokenised caption for each picture, by the labels of what it shows.

    Args:
        tokenizer: of the pipeline.
        vocabulary: the words.
        device: where the tokens lie.
    """

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, device: torch.device) -> None:
        self.vocabulary = vocabulary
        shape = tuple(len(vocabulary.things(kind)) for kind in KINDS)
        texts: list[str] = []
        starts, counts = [], []
        for split, kinds, _ in MIX:
            start, count = self._pool(split, kinds.split(), texts)
            starts.append(start.expand(shape))
            counts.append(count.expand(shape))
        self.texts = texts
        self._starts = torch.stack(starts).to(device)
        self._counts = torch.stack(counts).to(device)
        self._bounds = torch.tensor([share for *_, share in MIX]).cumsum(0).to(device)
        encoded = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        self._tokens = torch.as_tensor(encoded.input_ids).to(device)

    def _pool(self, split: str, kinds: list[str], texts: list[str]) -> tuple[Tensor, Tensor]:
        """Add the captions of one row of `MIX`; return where those of each label are, and how many.

        Both are `[objects, styles, colours]`, with 1 for a kind that the captions do not name.
        """
        shape = [len(self.vocabulary.things(k)) if k in kinds else 1 for k in KINDS]
        start = torch.zeros(shape, dtype=torch.long)
        count = torch.zeros(shape, dtype=torch.long)
        for place in itertools.product(*map(range, shape)):
            labels = {k: n for k, n in zip(KINDS, place, strict=True) if k in kinds}
            found = self._captions(split, labels)
            start[place], count[place] = len(texts), len(found)
            texts += found
        return start, count

    def _captions(self, split: str, labels: dict[str, int]) -> list[str]:
        if split == "empty":
            return [""]
        if split == "generic":
            return list(self.vocabulary.templates["generic"])
        if split == "train":
            return self.vocabulary.captions("train", labels)
        return [
            text
            for kind in labels
            for words in OTHER_WORDS
            for text in self.vocabulary.captions(split, labels, {kind: words})
        ]

    def draw(self, labels: Sequence[Tensor], draws: torch.Generator) -> Tensor:
        """Tokens `[B, length]` for labels of object, style and colour, `[B]` each.

        `draws` and the labels lie on the device of the tokens.
        """
        objects, styles, colours = labels
        kind, pick = torch.rand(2, len(objects), generator=draws, device=objects.device)
        row = torch.searchsorted(self._bounds, kind, right=True).clamp(max=len(MIX) - 1)
        count = self._counts[row, objects, styles, colours]
        choice = (pick * count).long().minimum(count - 1)
        return self._tokens[self._starts[row, objects, styles, colours] + choice]
