"""Find the noise from which the model draws an image of the concept under the empty prompt.

An image x_0 of the concept is taken back to noise by DDIM's steps in reverse under the empty
prompt, each step refined by fixed-point iteration, and rendered from that noise without text or
guidance, so that nothing that was unlearned about words matters (as TINA: Xiang et al., CVPR 2026;
Rusanovsky et al. 2024, "Memories of Forgotten Concepts"). Where it also succeeds on a model that
never knew the concept, it tells of the sampler, not of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, Attack, Facts, Rendering, Stage, Victim, counted
from erase.tasks.partway import inverted, partway
from erase.tasks.protocol import Noised

RECIPES: dict[str, Recipe] = {
    "large": ours(
        "DDIM inversion with fixed-point refinement at the renderer's steps", refinements=5
    ),
    "small": ours("as for large models", refinements=5),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the inversion."""

    refinements: int = option(5, "Fixed-point iterations of each step; 0 is plain DDIM.", least=0)
    restarts: int = option(1, "Images that are tried for each prompt.", least=1)


class NullText(Attack):
    """Images of the concept through the empty prompt."""

    name = "null-text"
    sets = (CONCEPT,)

    def budget(self) -> str:
        """The inversions."""
        settings = self.settings
        images = counted(settings.restarts, "inverted image", "inverted images")
        return f"{images}, {settings.refinements} refinements a step"

    def check(self, facts: Facts) -> None:
        """InputError for a model without DDIM's schedule."""
        partway(facts.scheduler).set_timesteps(facts.steps)

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """The noise of each image, batch by batch."""
        task: Any = victim.task(CONCEPT)
        latents = victim.latents(CONCEPT)
        offset = int(stage.name.rpartition("-")[2]) * len(victim.samples)
        place = {sample.id: number for number, sample in enumerate(victim.samples)}
        own = victim.pipeline.scheduler
        dtype = victim.denoiser.dtype

        def predict(x: Tensor, timestep: int) -> Tensor:
            at = torch.full((len(x),), timestep, device=x.device)
            rows = torch.full_like(at, task.empty)
            prediction: Tensor = task.predict(Noised(x, x, x, at, rows, rows))
            return prediction

        def noise_of(batch: Sequence[Sample]) -> Mapping[str, Any]:
            chosen = [(place[sample.id] + offset) % len(latents) for sample in batch]
            clean = latents[chosen].to(victim.device, dtype)
            refinements = self.settings.refinements
            noise = inverted(predict, own, clean, steps=victim.steps, refinements=refinements)
            return {"latents": noise}

        plain = [replace(sample, prompt="", guidance=1.0) for sample in samples]
        return Rendering(plain, noise_of, partway(own), {s.id: "(empty prompt)" for s in samples})
