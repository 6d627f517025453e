"""SA: selective amnesia, another picture under the old name (Heng & Soh, NeurIPS 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import CLASS_CONDITIONAL, DENOISERS, TEXT_TO_IMAGE
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.params import as_list, snapshot
from erase.errors import InputError
from erase.tasks.denoising import (
    WithAnchorImages,
    is_first_process,
    two_gradients,
    weighted,
)
from erase.tasks.fisher import read_diagonal, tensors_key, trajectory_fisher, write_diagonal
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Loss, Noised, Reduce

_SD: dict[str, Any] = {
    "learning_rate": 1e-5,
    "train_batch_size": 4,
    "weight_decay": 0.01,
    "ewc": 50.0,
    "fisher_samples": 5000,
}
RECIPES: dict[str, Recipe] = {
    # The number of steps is not the source's: its runs count epochs over a list of prompts.
    "nudity": published(
        "selective-amnesia: sd/configs/stable-diffusion/forget_nudity.yaml (but the steps)",
        trainable="noxattn",
        **_SD,
    ),
    "class": published(
        "selective-amnesia: sd/configs/stable-diffusion/forget_brad_pitt.yaml (but the steps)",
        trainable="xattn",
        **_SD,
    ),
    "style": ours("SA's for a person", trainable="xattn", **_SD),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        ewc=0.005,
        fisher_samples=64,
        fisher_timesteps=8,
    ),
    # λ 10 with losses summed over the 3 × 32 × 32 numbers of an image: F grows by 3072², the
    # losses by 3072, so λ is 10 × 3072 for the means used here.
    "class-conditional": published(
        "selective-amnesia: ddpm",
        learning_rate=1e-4,
        max_train_steps=20_000,
        train_batch_size=128,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_grad_norm=1.0,
        ema_decay=0.9999,
        caption_dropout=0.0,
        flip=True,
        ewc=30_720.0,
        fisher_samples=5000,
        surrogate="noise",
    ),
    "class-conditional-small": ours(
        "SA's form at 32 pixels, on fewer samples",
        ewc=30_720.0,
        fisher_samples=64,
        fisher_timesteps=8,
        surrogate="noise",
    ),
}
SURROGATES = ("anchor", "noise")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of selective amnesia."""

    retain_weight: float = option(1.0, "Weight γ of the replay (≥ 0).", least=0)
    ewc: float = option(50.0, "Weight λ of the Fisher-weighted distance (≥ 0).", least=0)
    fisher_samples: int = option(
        500, "Retain images behind the Fisher matrix's diagonal (the source: about 5000).", least=1
    )
    fisher_timesteps: int | None = option(
        None,
        "Timesteps of an image from which the square of its summed gradient is estimated (≥ 2);"
        " default: all of them, as the source sums.",
        least=2,
    )
    fisher_file: str | None = option(
        None, "File (.safetensors) of the Fisher diagonal: read if it exists, written if not."
    )
    surrogate: str = option(
        "anchor",
        "What to draw under the concept: anchor, images of what is shown instead; or"
        " noise, uniform in [-1, 1] (models on pixels).",
        SURROGATES,
    )


class Method(WithAnchorImages, BaseMethod):
    """L(surrogate | c) + γ L_r + λ Σ F (θ − θ_0)², all L denoising losses, F of θ_0 on D_r.

    F is the mean over retain images of the square of an image's gradient, which is summed over all
    timesteps first.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.surrogate == "noise":
            self.sets = ("forget", "retain")  # type: ignore[misc]  # anchor images are not read
        self._fisher: list[Tensor] = []
        self._start: list[Tensor] = []

    def check(self, model: Any, family: str) -> None:  # noqa: ARG002
        """Refuse the surrogate `noise` for latents, where noise is not an image of noise."""
        if self.settings.surrogate == "noise" and family == TEXT_TO_IMAGE:
            raise InputError(
                "SA's surrogate `noise` is for models on pixels.", "Use the surrogate anchor."
            )
        assert family in (TEXT_TO_IMAGE, CLASS_CONDITIONAL)

    def prepare(self, task: Denoiser) -> None:
        """The Fisher diagonal of the original on retain images, and its weights."""
        self._start = snapshot(task.parameters)
        self._fisher = self._diagonal(task)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the three terms, in `.grad`."""
        retain, forget, stats = two_gradients(
            task, task.mean_losses("retain", step, task.denoising), self._forget(task, step), reduce
        )
        total = weighted(forget, retain, self.settings.retain_weight)
        put_gradients(task, weighted(total, self.penalty(task), self.settings.ewc))
        return stats

    def _diagonal(self, task: Denoiser) -> list[Tensor]:
        """The Fisher diagonal, from its file if there is one."""
        file = self.settings.fisher_file
        key = tensors_key(task.parameters)
        if file and Path(file).is_file():
            return read_diagonal(Path(file), task.parameters, key)
        diagonal = trajectory_fisher(
            task, "retain", self.settings.fisher_samples, self.settings.fisher_timesteps
        )
        if file and is_first_process():
            write_diagonal(Path(file), dict(zip(task.parameters, diagonal, strict=True)), key)
        return diagonal

    @torch.no_grad()
    def penalty(self, task: Denoiser) -> list[Tensor]:
        """Gradient 2F (θ − θ_0) of the Fisher-weighted distance; the same on every process."""
        moved = torch._foreach_sub(as_list(task.parameters), self._start)
        return [2 * m for m in torch._foreach_mul(moved, self._fisher)]

    def _forget(self, task: Denoiser, step: int) -> Sequence[Loss]:
        if self.settings.surrogate == "anchor":
            return task.mean_losses("anchor", step, lambda batch: task.denoising(_swapped(batch)))
        noise = task.batches("forget", step, "surrogate")
        batches = task.batches("forget", step)
        surrogates = [
            _uniform(task, batch, other) for batch, other in zip(batches, noise, strict=True)
        ]
        return [
            task.fixed(
                lambda batch=batch: task.denoising(batch).mean(),  # type: ignore[misc]
                "forget",
                step,
                moves_buffers=False,
            )
            for batch in surrogates
        ]


def _swapped(batch: Noised) -> Noised:
    """The batch of anchor images, under the forget conditions that their anchors replace."""
    return replace(batch, condition=batch.anchor, anchor=batch.condition)


def _uniform(task: Denoiser, batch: Noised, other: Noised) -> Noised:
    """The batch with samples that are uniform in [-1, 1], made of another batch's noise."""
    # The normal distribution function, scaled to [-1, 1], makes normal values uniform.
    clean = torch.erf(other.noise / 2**0.5).to(batch.clean)
    noisy = task.add_noise(clean, batch.noise, batch.timesteps)
    return replace(batch, clean=clean, noisy=noisy)
