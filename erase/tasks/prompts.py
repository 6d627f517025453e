"""Prompts as an optimizer sees them: tokens that are vectors, and the words that texts can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erase.errors import InputError


@contextmanager
def replaced_tokens(
    encoders: Sequence[Any], first: int, vectors: Sequence[Tensor]
) -> Iterator[None]:
    """Inside, the text encoders read other vectors in the place of tokens `first`, `first + 1`, ….

    Args:
        encoders: of a pipeline; each has a table of its own.
        first: position of the first replaced token; 1 is the one after the start token.
        vectors: `[B, K, D]` for each encoder, with a gradient where they have one.
    """
    hooks = [
        encoder.get_input_embeddings().register_forward_hook(_replacing(first, own))
        for encoder, own in zip(encoders, vectors, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replacing(first: int, vectors: Tensor) -> Callable[[Any, Any, Tensor], Tensor]:
    after = first + vectors.shape[1]

    def hook(_: Any, __: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :first], vectors.to(output), output[:, after:]], dim=1)

    return hook


@contextmanager
def learned_word(encoders: Sequence[Any], token: int, vectors: Sequence[Tensor]) -> Iterator[None]:
    """Inside, each text encoder reads its own vector `[D]` wherever a token stands."""

    def hook_with(vector: Tensor) -> Callable[[Any, Any, Tensor], Tensor]:
        def hook(_: Any, read: Any, output: Tensor) -> Tensor:
            return torch.where((read[0] == token)[..., None], vector.to(output), output)

        return hook

    hooks = [
        encoder.get_input_embeddings().register_forward_hook(hook_with(vector))
        for encoder, vector in zip(encoders, vectors, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Vocabulary:
    """The words of a tokenizer: the tokens that can be typed and are read again as themselves.

    A prompt that was found token by token is rendered as text, as anybody could type it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def tokens(self) -> Tensor:
        """Ids of the words, `[W]`, rising."""
        special = set(self.tokenizer.all_special_ids)
        ids = [number for number in range(len(self.tokenizer)) if number not in special]
        texts = [self.tokenizer.decode([number]).strip() for number in ids]
        again = self.tokenizer([text or "a b" for text in texts], add_special_tokens=False)
        rows = zip(ids, texts, again["input_ids"], strict=True)
        return torch.tensor([n for n, text, read in rows if read == [n] and text.isprintable()])

    @cached_property
    def filler(self) -> str:
        """A word of one token, which stands where vectors are put."""
        return str(self.tokenizer.decode([int(self.tokens[0])])).strip()

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as a text; words are parted by spaces."""
        return " ".join(self.tokenizer.decode([int(number)]).strip() for number in tokens)

    def check_room(self, count: int, setting: str) -> None:
        """InputError for more words than the text encoder reads; prompts behind them are cut."""
        room = int(self.tokenizer.model_max_length) - 2
        if room < count:
            raise InputError(
                f"{setting} is {count}, and the model reads {room} tokens of a prompt.",
                "Give a smaller value.",
            )


def concept_words(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The words that prompts with the concept have and the same prompts without it have not."""
    words: set[str] = set()
    for with_concept, without in pairs:
        ours, others = with_concept.split(), without.split()
        for tag, start, end, _, _ in SequenceMatcher(None, ours, others).get_opcodes():
            if tag != "equal":
                words |= {_bare(word) for word in ours[start:end]}
    return words - {""}


def with_word(prompt: str, concept: set[str], word: str) -> str:
    """The prompt with one word for each run of the concept's words; in front where it has none."""
    parts: list[str] = []
    for part in prompt.split():
        if _bare(part) not in concept:
            parts.append(part)
        elif not parts or parts[-1] != word:
            parts.append(word)
    if word not in parts:
        parts.insert(0, word)
    return " ".join(parts)


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").lower()
