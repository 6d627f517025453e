"""Where in a prompt the concept's own words stand, for methods that edit or read attention."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor


def word_positions(
    tokenizer: Any, prompts: Sequence[str], instead: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Positions in the token sequences of prompts, padded as the text encoder sees them.

    A forget prompt's concept is what sets it apart from every prompt that is shown instead ("three"
    in "a handwritten three" against "a handwritten four"); all its words where nothing does.

    Args:
        tokenizer: of the text encoder.
        prompts: P texts.
        instead: for each forget prompt among them, the prompts to show instead.

    Returns:
        `concept [P, L]`, true at the concept's tokens, nowhere true for other prompts; `last [P]`,
        the position of the last word's last token, 0 where there is none.
    """
    found = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_special_tokens_mask=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    # Where padding is the end token again, only the attention mask tells it from a word.
    content = (found["special_tokens_mask"] == 0) & (found["attention_mask"] == 1)
    places = torch.arange(content.shape[1])
    last = torch.where(content, places, 0).amax(1)
    words = {
        prompt: found["input_ids"][row][content[row]].tolist() for row, prompt in enumerate(prompts)
    }
    concept = torch.zeros_like(content)
    for row, prompt in enumerate(prompts):
        if prompt in instead:
            own = _own_words(words[prompt], [words[text] for text in instead[prompt]])
            concept[row, places[content[row]][own]] = True
    return {"concept": concept, "last": last}


def _own_words(prompt: Sequence[int], others: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the tokens that are in no matching block with any of the others."""
    own = set(range(len(prompt)))
    for other in others:
        for block in SequenceMatcher(None, prompt, other, autojunk=False).get_matching_blocks():
            own -= set(range(block.a, block.a + block.size))
    return sorted(own) or list(range(len(prompt)))
