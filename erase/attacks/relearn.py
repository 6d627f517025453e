"""Fine-tune the model on images of the concept, or on harmless ones, and see whether it returns.

The attacker trains the denoiser on L = E ‖ε − ε_θ(x_t, t, c)‖² over images with their captions, and
renders the plain prompts after some numbers of steps. Images of the concept are malicious
fine-tuning (Meta-Unlearning, Gao et al., ICCV 2025); images of anything else are what users do
(Suriyakumar et al. 2024, "concept resurgence"; ResAlign, Li et al., NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.params import restore, snapshot
from erase.core.phases import NonFiniteLossError
from erase.errors import InputError
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, HARMLESS, Attack, Facts, Rendering, Stage, Victim

RECIPES: dict[str, Recipe] = {
    "large": published(
        "ResAlign: train_finetune.py, AdamW, constant rate; the steps are those that are reported"
        " here",
        learning_rate=1e-5,
        batch_size=1,
    ),
    "small": ours(
        "the rate that mini-sd is unlearned with: docs/mini-sd.md",
        learning_rate=1e-4,
        batch_size=16,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the fine-tuning."""

    images: str = option(
        "both",
        "What it is trained on: concept, harmless, or both, one after the other.",
        ("both", "concept", "harmless"),
    )
    steps: str = option("0,5,10,25,50,100", "Steps after which the prompts are rendered.")
    learning_rate: float = option(1e-5, "Of AdamW, constant.", above=0)
    batch_size: int = option(1, "Images a step.", least=1)
    weight_decay: float = option(0.01, "AdamW's weight decay.", least=0)
    trainable: str = option("full", "What is trained, as in erase concept: full, xattn, …")
    lora_rank: int | None = option(None, "Train an adapter of this rank instead.", least=1)

    @property
    def points(self) -> list[int]:
        """The steps in rising order, without doubles."""
        try:
            points = sorted({int(text) for text in self.steps.split(",")})
        except ValueError:
            points = [-1]
        if points[0] < 0 or points[-1] == 0:
            raise InputError(
                f"relearn.steps is {self.steps!r}.", "Give whole numbers such as 0,10,100."
            )
        return points


class Relearn(Attack):
    """Fine-tuning on images of the concept, and separately on harmless ones."""

    name = "relearn"
    families = DENOISERS
    sets = (CONCEPT, HARMLESS)
    gradients = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._training: _Training | None = None

    def stages(self) -> list[Stage]:
        """A curve for each kind of images."""
        kinds = (CONCEPT, HARMLESS) if self.settings.images == "both" else (self.settings.images,)
        return [
            Stage(f"{kind}-{step}", kind, step) for kind in kinds for step in self.settings.points
        ]

    def budget(self) -> str:
        """The steps and their size."""
        settings = self.settings
        what = f"LoRA of rank {settings.lora_rank}" if settings.lora_rank else settings.trainable
        return (
            f"{settings.points[-1]} steps of {settings.batch_size} images at"
            f" {settings.learning_rate:g}, {what}"
        )

    def check(self, facts: Facts) -> None:  # noqa: ARG002
        """InputError for steps that are none."""
        self.stages()

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Train up to the stage's step; another kind of images starts from the model as it was."""
        assert stage.step is not None
        if self._training is None:
            self._training = _Training(victim, self.settings)
        training, step = self._training, stage.step
        trained = victim.store.shared(stage.name, lambda: training.until(stage.group, step))
        training.take(trained)
        return Rendering(samples)


class _Training:
    """The weights under fine-tuning, their optimizer, and how far it is."""

    def __init__(self, victim: Victim, settings: Settings) -> None:
        self.victim, self.settings = victim, settings
        self.parameters = victim.trainable(settings.trainable, settings.lora_rank)
        self.original = snapshot(self.parameters)
        self.kind, self.step = "", 0
        self.task: Any = None
        self.optimizer: Any = None

    def until(self, kind: str, step: int) -> dict[str, Tensor]:
        """The weights after so many steps on a kind of images.

        Raises NonFiniteLossError when the training runs away.
        """
        settings, victim = self.settings, self.victim
        if kind != self.kind or step < self.step:
            restore(self.parameters, self.original)
            self.kind, self.step = kind, 0
            self.task = victim.task(
                kind, batch_size=settings.batch_size, parameters=self.parameters
            )
            self.optimizer = torch.optim.AdamW(
                self.parameters.values(),
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
            )
        victim.denoiser.train()
        while self.step < step:
            (loss,) = self.task.mean_losses("forget", self.step, self.task.denoising)
            value = loss()
            if not torch.isfinite(value):
                raise NonFiniteLossError(
                    f"relearn's loss is {float(value)} at step {self.step}",
                    "Give a smaller --set relearn.learning_rate.",
                )
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
            self.step += 1
        victim.denoiser.eval()
        return {name: p.detach() for name, p in self.parameters.items()}

    def take(self, trained: dict[str, Tensor]) -> None:
        """Use these weights, which another process may have trained."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if parameter.data_ptr() != trained[name].data_ptr():
                    parameter.copy_(trained[name])
