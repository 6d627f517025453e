"""Let the base model begin each image, and the attacked model finish it.

The base model denoises under the prompt down to step k of N, and the attacked model takes over from
those latents x_k (Sharma et al. 2024, "Unlearning or Concealment?": partial diffusion with a share
ψ = k / N). A model that only avoids the concept at the noisy steps completes it. So does, with a
large enough share, a model that never knew it: read all shares, not the largest alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.errors import InputError
from erase.scoring.samples import Sample
from erase.tasks.attack import Attack, Facts, Rendering, Stage, Victim
from erase.tasks.partway import partway

RECIPES: dict[str, Recipe] = {
    "large": published(
        "Sharma et al. 2024, arXiv 2409.05668: a share of 0.55 brings concepts back; half and"
        " double of about that here",
        shares="0.25,0.5",
    ),
    "small": ours("as for large models", shares="0.25,0.5"),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the completion."""

    shares: str = option("0.25,0.5", "Shares of the steps that the base model takes.")

    @property
    def points(self) -> list[float]:
        """The shares in rising order."""
        return numbers("completion.shares", self.shares, 0.0, 1.0)


def numbers(name: str, text: str, above: float, below: float) -> list[float]:
    """Different numbers of a text with commas, rising; InputError for any that is out of range."""
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = [above]
    if not (above < values[0] and values[-1] < below):
        raise InputError(
            f"{name} is {text!r}.",
            f"Give numbers above {above:g} and below {below:g}, with commas between them.",
        )
    return values


class Completion(Attack):
    """Images that the base model begins and the attacked model ends."""

    name = "completion"

    def stages(self) -> list[Stage]:
        """A group for each share, since a larger one is another question."""
        return [Stage(f"{share:g}", f"{share:.0%} by the base") for share in self.settings.points]

    def budget(self) -> str:
        """No search."""
        return "1 image a share, DDIM"

    def check(self, facts: Facts) -> None:
        """InputError for a share that is no step, or a model without DDIM's schedule."""
        partway(facts.scheduler).set_timesteps(facts.steps)
        least = self.settings.points[0]
        if round(least * facts.steps) < 1:
            raise InputError(
                f"completion.shares has {least:g}, which is no step of {facts.steps}.",
                "Give a larger share.",
            )

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """The base model's latents, batch by batch."""
        first = min(max(round(float(stage.name) * victim.steps), 1), victim.steps - 1)
        base = victim.original()
        own = base.scheduler
        size = {"height": victim.size, "width": victim.size}

        @torch.no_grad()
        def begun(batch: Sequence[Sample]) -> Mapping[str, Any]:
            base.scheduler = partway(own, last=first)
            latents = base(
                prompt=[sample.prompt for sample in batch],
                num_inference_steps=victim.steps,
                guidance_scale=batch[0].guidance,
                generator=[torch.Generator().manual_seed(sample.seed) for sample in batch],
                output_type="latent",
                **size,
            ).images
            return {"latents": latents}

        return Rendering(samples, begun, partway(victim.pipeline.scheduler, first=first))
