"""A model's text encoders in training: prompts are read anew at each call, with gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from erase.tasks.prompts import Vocabulary, replaced_tokens


@dataclass
class LiveText:
    """The tokenizers and text encoders of a pipeline, on the device of the denoiser.

    Other methods read the conditions that were encoded before training; these change with the
    text encoders' weights, and with vectors that stand in the place of words.
    """

    pipeline: Any
    texts: Callable[[Any, list[str], int], dict[str, Tensor]]
    """`(pipeline, prompts, size)`: `Family.texts`."""
    encoders: Sequence[Any]
    size: int
    """Pixels a side."""

    @cached_property
    def _filler(self) -> str:
        return Vocabulary(self.pipeline.tokenizer).filler

    @property
    def words(self) -> int:
        """Number of words in the vocabulary."""
        return len(self.pipeline.tokenizer)

    def vectors(self, words: Tensor) -> list[Tensor]:
        """The vectors `[B, K, D]` of words `[B, K]`, for each text encoder, without a gradient."""
        return [e.get_input_embeddings().weight.detach()[words] for e in self.encoders]

    def conditions(
        self, prompts: Sequence[str], prefix: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        """Conditions of prompts, a row each, on the device.

        Args:
            prompts: texts; what is longer than the text encoder reads is cut off.
            prefix: `[B, K, D]` for each text encoder: vectors of K words in front of each prompt.
        """
        if not prefix:
            return self._read(list(prompts))
        filler = " ".join([self._filler] * prefix[0].shape[1])
        with replaced_tokens(self.encoders, 1, prefix):
            return self._read([f"{filler} {prompt}".rstrip() for prompt in prompts])

    def _read(self, prompts: list[str]) -> dict[str, Tensor]:
        found = self.texts(self.pipeline, prompts, self.size)
        device = next(self.encoders[0].parameters()).device
        return {name: tensor.to(device) for name, tensor in found.items()}
