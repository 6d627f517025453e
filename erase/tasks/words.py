"""Positions of the concept's words in a prompt, for methods that edit or read attention."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor


def word_positions(
    tokenizer: Any, prompts: Sequence[str], instead: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Positions in the token sequences of prompts, padded as the text encoder sees them.

    The concept's words in a forget prompt are those that no prompt shown instead has ("three" in "a
    handwritten three" against "a handwritten four"); all words, if there are no such words.

    Args:
        tokenizer: of the text encoder.
        prompts: P texts.
        instead: for each forget prompt among them, the prompts to show instead.

    Returns:
        `concept [P, L]`, true at the concept's tokens, all false for other prompts; `last [P]`, the
        position of the last word's last token, 0 if there is none.
    """
    encoded = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_special_tokens_mask=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    # If padding uses the end token, only the attention mask tells padding from words.
    content = (encoded["special_tokens_mask"] == 0) & (encoded["attention_mask"] == 1)
    positions = torch.arange(content.shape[1])
    last = torch.where(content, positions, 0).amax(1)
    words = {
        prompt: encoded["input_ids"][row][content[row]].tolist()
        for row, prompt in enumerate(prompts)
    }
    concept = torch.zeros_like(content)
    for row, prompt in enumerate(prompts):
        if prompt in instead:
            distinct = _distinct_words(words[prompt], [words[text] for text in instead[prompt]])
            concept[row, positions[content[row]][distinct]] = True
    return {"concept": concept, "last": last}


def _distinct_words(prompt: Sequence[int], others: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the tokens in no matching block with any of the others; all if there are none."""
    distinct = set(range(len(prompt)))
    for other in others:
        for block in SequenceMatcher(None, prompt, other, autojunk=False).get_matching_blocks():
            distinct -= set(range(block.a, block.a + block.size))
    return sorted(distinct) or list(range(len(prompt)))
