"""The tokenizer of the embedded models: byte-level CLIP, with one token for each word they know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def build_tokenizer(words: Sequence[str], max_tokens: int = 16) -> CLIPTokenizer:
    """Build a byte-level CLIP tokenizer that has one token for each of `words`.

    Any other text falls apart into shorter pieces, in the end into bytes, so no text fails.

    Args:
        words: Lower-case words of letters, or single digits; their order does not matter.
        max_tokens: Longest text in tokens, start and end included.
    """
    alphabet = _byte_alphabet()
    merges = _learn_merges(sorted(set(words)))
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]  # the end token has the highest id, as in CLIP
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )


def _byte_alphabet() -> list[str]:
    """Return the 256 printable stand-ins of bytes that byte-level BPE uses, by byte value.

    Printable Latin-1 characters stand for themselves; the other bytes take characters from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent pair first, until each word is one token.

    Encoding replays merges in the order they were learnt, so each word ends whole.
    """
    pieces = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Join each occurrence of `pair` in `word`, from the left."""
    joined: list[str] = []
    index = 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            joined.append(pair[0] + pair[1])
            index += 2
        else:
            joined.append(word[index])
            index += 1
    return joined
