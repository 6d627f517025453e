"""ESD: steer away from the concept by the frozen model's own guidance (Gandikota et al., 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import mismatch_mse
from erase.tasks.denoising import forget_gradient
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

LAYERS = r"^(?!.*(attn2|norm))"
"""Linear layers and convolutions outside cross-attention: all but `attn2` and the norms."""
FIRST: dict[str, Any] = {
    "learning_rate": 1e-5,
    "max_train_steps": 1000,
    "start": "empty",
    "guidance": 1.0,
    "sampled_by": "student",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "x": {"trainable": "xattn"},
    "x-strict": {"trainable": r"attn2\.to_[kv]\."},
    "u": {"trainable": LAYERS},
    "full": {"trainable": "full"},
    "first-x": {"trainable": "xattn", **FIRST},
    "first-u": {"trainable": "noxattn", **FIRST},
    "sdxl": {
        "trainable": "xattn",
        "learning_rate": 2e-4,
        "guidance": 1.0,
        "sampling_guidance": 2.0,
    },
}
_CURRENT: dict[str, Any] = {
    "learning_rate": 5e-5,
    "max_train_steps": 200,
    "train_batch_size": 1,
    "samples": "denoised",
}
RECIPES: dict[str, Recipe] = {
    "nudity": published("erasing: esd_sd.py; paper, section 4 (ESD-u)", variant="u", **_CURRENT),
    "class": published("erasing: esd_sd.py; paper, section 4 (ESD-u)", variant="u", **_CURRENT),
    "style": published("erasing: esd_sd.py; paper, section 4 (ESD-x)", variant="x", **_CURRENT),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        variant="x",
        learning_rate=3e-4,
    ),
    "class-conditional": ours(
        "the first release's schedule",
        variant="full",
        learning_rate=1e-5,
        max_train_steps=1000,
        train_batch_size=1,
        lr_scheduler="constant",
        lr_warmup_steps=0,
    ),
}
STARTS = ("condition", "empty")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of ESD."""

    variant: str = option(
        "u",
        "What is trained: x, cross-attention; x-strict, its keys and values; u, all other linear"
        " and convolution layers; full. first-x and first-u: as the first release (η 1 from ε(∅)),"
        " whose u leaves out the output and the timestep's embedding; sdxl: as the script for SDXL"
        " (η 1 from ε(c): the target is ε(∅)).",
        VARIANTS,
    )
    guidance: float = option(2.0, "Negative guidance η (> 0).", above=0)
    start: str = option(
        "condition", "Where the target starts from: condition, ε(c), or empty, ε(∅).", STARTS
    )
    samples: str = option(
        "noised",
        "x_t: denoised from pure noise under the concept's words, as in the source, which needs no"
        " forget images; or noised, forget images at a random timestep.",
        ("noised", "denoised"),
    )
    sampled_by: str = option(
        "original",
        "Which model denoises: the original (the source), or the student, the model under training"
        " (its first release).",
        ("original", "student"),
    )
    sampling_steps: int = option(50, "Steps of that denoising, to the image.", least=1)
    sampling_guidance: float = option(3.0, "Guidance scale of that denoising (≥ 1).", least=1)
    erase_from: str | None = option(
        None,
        "Forget the concept only where this prompt shows it (`hat` from `snowman`): the model is"
        " trained under this prompt, away from what the concept adds. --erase-from gives it for"
        " pairs of any words; elsewhere --erase-from has captions of the pair forgotten.",
    )


class Method(BaseMethod):
    """MSE(ε_θ(x_t|c), start − η (ε_0(x_t|c) − ε_0(x_t|∅))), with ε_0 the original model.

    start = ε_0(x_t|c) with η = 2 and start = ε_0(x_t|∅) with η = 1 are the same target,
    2ε_∅ − ε_c. With `erase_from` b, the student and the start are under b instead of c.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images = settings.samples == "noised"
        self.prompts = (settings.erase_from,) if settings.erase_from else ()
        self._from: int | None = None

    def prepare(self, task: Denoiser) -> None:
        """Keep a frozen copy of the original."""
        task.original  # noqa: B018  # copied when it is first read
        if self.settings.erase_from:
            self._from = task.row(self.settings.erase_from)

    def target(self, task: Denoiser, batch: Noised) -> Tensor:
        """The target prediction, ``[B, …]``, without a gradient."""
        with torch.no_grad():
            empty = task.predict(
                batch, torch.full_like(batch.condition, task.empty), model=task.original
            )
            concept = task.predict(batch, model=task.original)
            start = empty
            if self.settings.start == "condition":
                start = concept
                if self._from is not None:
                    start = task.predict(batch, self._shown(batch), model=task.original)
            target: Tensor = start - self.settings.guidance * (concept - empty)
        return target

    def _shown(self, batch: Noised) -> Tensor:
        """The conditions that the student is trained under, ``[B]``."""
        if self._from is None:
            return batch.condition
        return torch.full_like(batch.condition, self._from)

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the distance to the target, in `.grad`."""
        batches = None
        if self.settings.samples == "denoised":
            batches = task.denoised(
                step,
                steps=self.settings.sampling_steps,
                guidance=self.settings.sampling_guidance,
                model=task.original if self.settings.sampled_by == "original" else None,
                under=self._from,
            )
        losses = task.mean_losses(
            "forget",
            step,
            lambda batch: mismatch_mse(
                task.predict(batch, self._shown(batch)), self.target(task, batch)
            ),
            batches=batches,
        )
        gradient, stats = forget_gradient(task, losses, reduce)
        put_gradients(task, gradient)
        return stats
