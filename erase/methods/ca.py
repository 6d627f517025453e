"""CA: concept ablation, the concept's name shows the anchor (Kumari et al., ICCV 2023)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours, published
from erase.core.attention import cross_attentions
from erase.core.meta import Stats
from erase.core.objectives import noise_mse
from erase.errors import InputError
from erase.tasks.denoising import WithAnchorImages, forget_gradient, two_gradients, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

# 2e-6 an image, of which two GPUs have four each; with the prior loss, twice that.
_INSTANCE: dict[str, Any] = {
    "learning_rate": 1.6e-5,
    "max_train_steps": 100,
    "train_batch_size": 8,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
    "trainable": r"attn2\.to_[kv]\.",
    "num_anchor_images": 200,
}
RECIPES: dict[str, Recipe] = {
    "nudity": published(
        "concept-ablation: README (compvis), nudity",
        learning_rate=6.4e-5,
        max_train_steps=400,
        train_batch_size=8,
        max_grad_norm=1.0,
        weight_decay=0.01,
        trainable="attn",
        num_anchor_images=200,
        retain_weight=1.0,
    ),
    "class": published("concept-ablation: diffusers/train.py, object", **_INSTANCE),
    "style": published("concept-ablation: diffusers/train.py, style", **_INSTANCE),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        regulariser="anchor",
        retain_weight=1.0,
    ),
    "class-conditional": ours(
        "SalUn's schedule",
        **SALUN_DDPM,
        retain_weight=1.0,
        first_token=True,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of concept ablation."""

    loss: str = option(
        "model",
        "What the concept's name is to predict on images of the anchor: model, what the anchor's"
        " name predicts; or noise, the noise itself.",
        ("model", "noise"),
    )
    retain_weight: float = option(
        0.0, "Weight λ of the prior, a denoising loss (≥ 0); the source leaves it out.", least=0
    )
    regulariser: str = option(
        "anchor", "Images of the prior: anchor, as in the source, or retain.", ("anchor", "retain")
    )
    first_token: bool = option(
        False,
        "Let the first text token's key and value be trained too; the source passes no gradient"
        " through them.",
    )


class Method(WithAnchorImages, BaseMethod):
    """C · MSE(ε_θ(x*_t|c), sg ε_θ(x*_t|c*)) + λ MSE(ε, ε_θ(x*_t|c*)) on images x* of the anchor c*.

    C is the number of a sample's channels: the source's masked loss divides by places alone. The
    concept's own images are not looked at.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._hooks: list[Any] = []

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Refuse to detach the first token where there is no cross-attention on text."""
        if not self.settings.first_token:
            try:
                cross_attentions(model)
            except InputError as error:
                raise InputError(
                    f"{error.message} CA detaches the first token of its text.",
                    "Add --set first_token=true.",
                ) from error

    def prepare(self, task: Denoiser) -> None:
        """From here on, no gradient passes through the first token's keys and values."""
        if not self.settings.first_token:
            self._hooks = [
                part.register_forward_hook(_without_first)
                for layer in cross_attentions(task.model).values()
                for part in (layer.to_k, layer.to_v)
            ]

    def finish(self, task: Denoiser) -> None:  # noqa: ARG002
        """Let gradients pass again."""
        for hook in self._hooks:
            hook.remove()

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the terms, in `.grad`."""

        def ablate(batch: Noised) -> Tensor:
            swapped = replace(batch, condition=batch.anchor, anchor=batch.condition)
            if self.settings.loss == "noise":
                distance = noise_mse(task.predict(swapped), task.target(swapped))
            else:
                distance = task.mismatch(swapped)
            return distance * batch.noisy.shape[1]

        forget_losses = task.mean_losses("anchor", step, ablate)
        if self.settings.retain_weight == 0:
            gradient, stats = forget_gradient(task, forget_losses, reduce)
            put_gradients(task, gradient)
            return stats
        retain, forget, stats = two_gradients(
            task,
            task.mean_losses(self.settings.regulariser, step, task.denoising, "regulariser"),
            forget_losses,
            reduce,
        )
        put_gradients(task, weighted(forget, retain, self.settings.retain_weight))
        return stats


def _without_first(_layer: Module, _inputs: Any, output: Tensor) -> Tensor:
    """The output ``[B, L, C]`` of a key or value layer, its first row detached."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
