"""UCE: closed-form editing of cross-attention keys and values (Gandikota et al., WACV 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.config.fields import option
from erase.core.attention import cross_attentions
from erase.errors import InputError
from erase.tasks.method import ClosedForm
from erase.tasks.protocol import Denoiser

DENOISER: dict[str, dict[str, Any]] = {
    "large": {},  # the source's are in Settings
    # Of three tried on mini-sd's digit nine: benchmarks/diffusion_tuning.py.
    "small": {"regularise": 0.01},
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of UCE."""

    erase_scale: float = option(1.0, "Weight of the prompts that are moved (> 0).", above=0)
    preserve_scale: float = option(
        1.0, "Weight of the retain prompts, kept as they are (≥ 0).", least=0
    )
    regularise: float = option(0.5, "λ: pull of every direction to the original (> 0).", above=0)


class Method(ClosedForm):
    """W ← (Σ W c* cᵀ + Σ W p pᵀ + λ W)(Σ c cᵀ + Σ p pᵀ + λ I)⁻¹ for every key and value matrix.

    c are the text states of the forget prompts, c* those of what is shown instead, p those of the
    retain prompts: from each prompt's last word to the end of the sequence, the two of a pair
    lined up at their last words, as in the source.
    """

    families: ClassVar = frozenset({TEXT_TO_IMAGE})
    images: ClassVar = False

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Refuse a model without cross-attention on text."""
        cross_attentions(model)

    @torch.no_grad()
    def prepare(self, task: Denoiser) -> None:
        """The whole method."""
        matrices = {
            f"{name}.{part}.weight": getattr(layer, part).weight
            for name, layer in cross_attentions(task.model).items()
            for part in ("to_k", "to_v")
        }
        frozen = [name for name in matrices if name not in task.parameters]
        if frozen:
            raise InputError(
                f"UCE edits {frozen[0]}, which is not among the trained parameters.",
                "Use --trainable full or xattn, and no LoRA.",
            )
        moves, keeps = self.statistics(task)
        eye = self.settings.regularise * torch.eye(len(keeps), dtype=keeps.dtype)
        for weight in matrices.values():
            old = weight.double().cpu()
            new = torch.linalg.solve(keeps + eye, (old @ (moves + eye)).T).T
            weight.copy_(new)

    def statistics(self, task: Denoiser) -> tuple[Tensor, Tensor]:
        """Σ c* cᵀ + Σ p pᵀ and Σ c cᵀ + Σ p pᵀ, each ``[D, D]``, with their scales, in float64."""
        states, last = task.conditions["states"].double().cpu(), task.conditions["last"].cpu()
        sets, anchors = task.cache.sets, task.cache.anchors
        pairs = [
            (row, instead)
            for row in sorted(set(sets["forget"].condition.tolist()))
            for instead in sorted(set(anchors[row].tolist()))
        ]
        retained = sorted(set(sets["retain"].condition.tolist()) - {row for row, _ in pairs})
        width = states.shape[-1]
        moves, keeps = states.new_zeros(width, width), states.new_zeros(width, width)
        for row, instead in pairs:
            old, new = states[row, last[row] :], states[instead, last[instead] :]
            length = min(len(old), len(new))
            # A pair's share, so that several anchors weigh as much as one.
            share = self.settings.erase_scale / len(set(anchors[row].tolist()))
            moves += share * new[:length].T @ old[:length]
            keeps += share * old[:length].T @ old[:length]
        for row in retained:
            text = states[row, last[row] :]
            outer = self.settings.preserve_scale * text.T @ text
            moves += outer
            keeps += outer
        return moves, keeps
