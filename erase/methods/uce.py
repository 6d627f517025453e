"""UCE: closed-form editing of cross-attention keys and values (Gandikota et al., WACV 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.attention import cross_attentions
from erase.errors import InputError
from erase.tasks.method import ClosedForm
from erase.tasks.protocol import Denoiser

VARIANTS: dict[str, dict[str, Any]] = {"current": {}, "first": {}}
RECIPES: dict[str, Recipe] = {
    "nudity": published("unified-concept-editing: uce_sd_erase.py"),
    "class": published("unified-concept-editing: uce_sd_erase.py"),
    "style": published("unified-concept-editing: uce_sd_erase.py"),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        variant="first",
        preserve_scale=1.0,
        regularise=0.01,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of UCE."""

    variant: str = option(
        "current",
        "Which release: current, one text state a prompt, that of its last word; or first, the"
        " states from the last word on of what is moved, all states of what is kept, and the empty"
        " prompt always kept.",
        VARIANTS,
    )
    erase_scale: float = option(1.0, "Weight of the prompts that are moved (> 0).", above=0)
    preserve_scale: float | None = option(
        None,
        "Weight of the retain prompts, which are kept as they are (≥ 0); default: 1, in the first"
        " release max(0.1, 1 / number of them).",
        least=0,
    )
    regularise: float = option(0.5, "λ: pull of every direction to the original (> 0).", above=0)


class Method(ClosedForm):
    """W ← (Σ W c* cᵀ + Σ W p pᵀ + λ W)(Σ c cᵀ + Σ p pᵀ + λ I)⁻¹ for every key and value matrix.

    c are text states of the forget prompts, c* those of what is shown instead, p those of the
    retain prompts; which states of a prompt is what the two releases differ in.
    """

    families: ClassVar = frozenset({TEXT_TO_IMAGE})
    images = False

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
        states = task.conditions.get("text", task.conditions["states"]).double().cpu()
        last = task.conditions["last"].cpu()
        sets, anchors = task.cache.sets, task.cache.anchors
        pairs = [
            (row, instead)
            for row in sorted(set(sets["forget"].condition.tolist()))
            for instead in sorted(set(anchors[row].tolist()))
        ]
        retained = set(sets["retain"].condition.tolist()) - {row for row, _ in pairs}
        first = self.settings.variant == "first"
        if first:
            retained.add(task.empty)
        width = states.shape[-1]
        moves, keeps = states.new_zeros(width, width), states.new_zeros(width, width)
        for row, instead in pairs:
            old, new = states[row, last[row] :], states[instead, last[instead] :]
            # The two are lined up at their last words.
            length = min(len(old), len(new)) if first else 1
            # A pair's share, so that several anchors weigh as much as one.
            share = self.settings.erase_scale / len(set(anchors[row].tolist()))
            moves += share * new[:length].T @ old[:length]
            keeps += share * old[:length].T @ old[:length]
        scale = self.settings.preserve_scale
        if scale is None:
            scale = max(0.1, 1 / len(retained)) if first else 1.0
        for row in sorted(retained):
            text = states[row] if first else states[row, last[row]][None]
            outer = scale * text.T @ text
            moves += outer
            keeps += outer
        return moves, keeps
