"""Cross-attention layers of diffusers models: finding them, and reading their probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from erase.errors import InputError


def cross_attentions(model: nn.Module) -> dict[str, Any]:
    """The cross-attention layers by full name (diffusers calls them `attn2`).

    Raises:
        InputError: the model has none, as class-conditional models and SD3's transformer.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn2" and hasattr(module, "to_k")
    }
    if not layers:
        raise InputError(
            f"This {type(model).__name__} has no cross-attention on text.",
            "Choose a method that does not edit or read it, e.g. lur.",
        )
    return layers


def probabilities(layer: Any, hidden: Tensor, states: Tensor) -> Tensor:
    """Attention probabilities softmax(QKᵀ/√d) of a diffusers `Attention` layer, in float32.

    Args:
        layer: with `to_q`, `to_k`, `heads` and `scale`.
        hidden: hidden states of the image, the queries, ``[B, N, C]``.
        states: text states, the keys, ``[B, L, D]``.

    Returns:
        ``[B, heads, N, L]``, summing to 1 over L.
    """
    query, key = layer.to_q(hidden), layer.to_k(states)
    query = query.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    key = key.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    if getattr(layer, "norm_q", None) is not None:
        query = layer.norm_q(query)
    if getattr(layer, "norm_k", None) is not None:
        key = layer.norm_k(key)
    scores: Tensor = query @ key.transpose(-1, -2) * layer.scale
    return scores.float().softmax(-1)


class AttentionProbe:
    """Computes the probabilities of every cross-attention layer, beside its fused kernel.

    The layers compute as usual; the probabilities are computed once more from the same input. So
    any attention processor works. Gradient checkpointing works too: when it repeats a pass, the
    probabilities are computed again, as in the first pass, but not recorded.
    """

    def __init__(self, model: nn.Module) -> None:
        """Watch the model's layers; InputError when it has no cross-attention."""
        self._records: list[Tensor] | None = None
        layers = cross_attentions(model).values()
        self._handles = [
            layer.register_forward_pre_hook(self._read, with_kwargs=True) for layer in layers
        ]

    def _read(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        states = args[1] if len(args) > 1 else kwargs["encoder_hidden_states"]
        values = probabilities(layer, hidden, states)
        if self._records is not None:
            self._records.append(values)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Inside, each layer's ``[B, heads, N, L]`` is appended to the list that is yielded."""
        self._records = []
        try:
            yield self._records
        finally:
            self._records = None

    def remove(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
